/** The right edge of the tree: all that appending needs, whatever the size of the log. */
import { type Hash, type HashReader, foldHashes, leafHash, treeRoot } from './tlog.ts'
import { WIDTH, frameEntry, hashesAt, partialTiles, tilePath } from './tiles.ts'

export interface Edge {
  readonly size: number
  /** Framed entries of the last, partial bundle. */
  readonly bundle: readonly Buffer[]
  /** Hashes of the last, partial tile of each level. */
  readonly tiles: readonly (readonly Hash[])[]
}

export const EMPTY_EDGE: Edge = { size: 0, bundle: [], tiles: [] }

/** Appends `entries`: the new edge, and the files that make it so. Pure. */
export function extendEdge(
  edge: Edge,
  entries: readonly Uint8Array[],
): { edge: Edge; files: Map<string, Uint8Array> } {
  const files = new Map<string, Uint8Array>()
  const tiles = edge.tiles.map((hashes) => [...hashes])
  let bundle = [...edge.bundle]
  let size = edge.size
  for (const entry of entries) {
    bundle.push(frameEntry(entry))
    pushHash(tiles, 0, leafHash(entry), size, files)
    size++
    if (size % WIDTH !== 0) continue
    files.set(tilePath('entries', size / WIDTH - 1, WIDTH), Buffer.concat(bundle))
    bundle = []
  }
  const next = { size, bundle, tiles }
  for (const { level, index, width } of partialTiles(size)) {
    const parts = level === 'entries' ? bundle : (tiles[level] ?? [])
    if (changed(level === 'entries' ? 0 : level, edge.size, size))
      files.set(tilePath(level, index, width), Buffer.concat(parts))
  }
  return { edge: next, files }
}

function pushHash(
  tiles: Hash[][],
  level: number,
  hash: Hash,
  size: number,
  files: Map<string, Uint8Array>,
): void {
  const tile = (tiles[level] ??= [])
  tile.push(hash)
  if (tile.length < WIDTH) return
  // `size` leaves were there before the last one, so this tile is the one they reach into.
  files.set(tilePath(level, Math.floor(hashesAt(level, size) / WIDTH), WIDTH), Buffer.concat(tile))
  tiles[level] = []
  pushHash(tiles, level + 1, foldHashes(tile), size, files)
}

const changed = (level: number, before: number, after: number): boolean =>
  hashesAt(level, before) !== hashesAt(level, after)

/** Every complete subtree on the way to the root lies within one partial tile of the edge. */
export const edgeReader =
  (edge: Edge): HashReader =>
  (level, index) => {
    const count = 2 ** (level % 8)
    const start = (index * count) % WIDTH
    return foldHashes((edge.tiles[Math.floor(level / 8)] ?? []).slice(start, start + count))
  }

export const edgeRoot = (edge: Edge): Hash => treeRoot(edge.size, edgeReader(edge))
