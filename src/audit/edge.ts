/** The right edge of the tree: all that appending needs, whatever the size of the log. */
import { native } from '../lib/native.ts'
import { HASH, WIDTH, frameEntries, hashesAt, partialTiles, splitTile, tilePath } from './tiles.ts'
import { type Hash, type HashReader, foldHashes, treeRoot } from './tlog.ts'

export interface Edge {
  readonly size: number
  /** The last, partial bundle: framed entries, one after the other. */
  readonly bundle: Uint8Array
  /** Hashes of the last, partial tile of each level, one after the other. */
  readonly tiles: readonly Uint8Array[]
}

export const EMPTY_EDGE: Edge = { size: 0, bundle: new Uint8Array(0), tiles: [] }

/** Appends `entries`: the new edge, and the files that make it so. Pure. */
export function extendEdge(
  edge: Edge,
  entries: readonly Uint8Array[],
): { edge: Edge; files: Map<string, Uint8Array> } {
  const files = new Map<string, Uint8Array>()
  const size = edge.size + entries.length
  const framed = frameEntries(entries)
  const bundle = cutBundles(edge, entries, framed, files)
  const tiles = [...edge.tiles]
  cutTiles(tiles, 0, native().leafHashes(framed), edge.size, files)
  for (const { level, index, width } of partialTiles(size)) {
    const bytes = level === 'entries' ? bundle : tiles[level]
    if (bytes && changed(level === 'entries' ? 0 : level, edge.size, size))
      files.set(tilePath(level, index, width), bytes)
  }
  return { edge: { size, bundle, tiles }, files }
}

/** Adds the bundles that `entries`, which lie in `framed`, fill; gives the partial one behind them. */
function cutBundles(
  { size, bundle }: Edge,
  entries: readonly Uint8Array[],
  framed: Uint8Array,
  files: Map<string, Uint8Array>,
): Uint8Array {
  let start = 0
  let end = 0
  let before = bundle
  for (const [i, entry] of entries.entries()) {
    end += 2 + entry.length
    if ((size + i + 1) % WIDTH !== 0) continue
    const path = tilePath('entries', (size + i + 1) / WIDTH - 1, WIDTH)
    files.set(path, Buffer.concat([before, framed.subarray(start, end)]))
    before = EMPTY_EDGE.bundle
    start = end
  }
  return Buffer.concat([before, framed.subarray(start)])
}

/** Appends `hashes` to the partial tile of `level`, which reaches to leaf `size`; full tiles go to `files` and upwards. */
function cutTiles(
  tiles: Uint8Array[],
  level: number,
  hashes: Uint8Array,
  size: number,
  files: Map<string, Uint8Array>,
): void {
  const all = Buffer.concat([tiles[level] ?? EMPTY_EDGE.bundle, hashes])
  const first = Math.floor(hashesAt(level, size) / WIDTH)
  const full = Math.floor(all.length / HASH / WIDTH)
  const roots: Uint8Array[] = []
  for (let i = 0; i < full; i++) {
    const tile = all.subarray(i * WIDTH * HASH, (i + 1) * WIDTH * HASH)
    files.set(tilePath(level, first + i, WIDTH), tile)
    roots.push(native().subtreeRoot(tile))
  }
  // A copy: the edge lives on and must not hold on to the batch.
  tiles[level] = Buffer.from(all.subarray(full * WIDTH * HASH))
  if (roots.length > 0) cutTiles(tiles, level + 1, Buffer.concat(roots), size, files)
}

const changed = (level: number, before: number, after: number): boolean =>
  hashesAt(level, before) !== hashesAt(level, after)

/** Every complete subtree on the way to the root lies within one partial tile of the edge. */
const edgeReader =
  (edge: Edge): HashReader =>
  (level, index) => {
    const count = 2 ** (level % 8)
    const start = (index * count) % WIDTH
    const tile = edge.tiles[Math.floor(level / 8)] ?? EMPTY_EDGE.bundle
    return foldHashes(splitTile(tile.subarray(start * HASH, (start + count) * HASH)))
  }

export const edgeRoot = (edge: Edge): Hash => treeRoot(edge.size, edgeReader(edge))
