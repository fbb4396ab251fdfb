/** The right edge of the tree: all that appending needs, whatever the size of the log. */
import { native } from '../lib/native.ts'
import type { EntryBatch } from './entry-batch.ts'
import { HASH, WIDTH, hashesAt, partialTiles, splitTile, tilePath } from './tiles.ts'
import { type Hash, type HashReader, foldHashes, treeRoot } from './tlog.ts'

export interface Edge {
  readonly size: number
  /** The last, partial bundle: framed entries, one after the other. */
  readonly bundle: Uint8Array
  /** Hashes of the last, partial tile of each level, one after the other. */
  readonly tiles: readonly Uint8Array[]
}

export const EMPTY_EDGE: Edge = { size: 0, bundle: new Uint8Array(0), tiles: [] }

/** Appends `entries`, which follow the edge: the new edge, and the files that make it so. Pure. */
export function extendEdge(edge: Edge, entries: EntryBatch): { edge: Edge; files: Map<string, Uint8Array> } {
  if (entries.start !== edge.size) throw new TypeError('entries for another size of the log')
  const files = new Map<string, Uint8Array>()
  const size = entries.next
  const bundle = cutBundles(edge, entries, files)
  const tiles = [...edge.tiles]
  const hashes = entries.bundles.map((framed) => native().leafHashes(framed))
  cutTiles(tiles, 0, Buffer.concat(hashes), edge.size, files)
  for (const { level, index, width } of partialTiles(size)) {
    const bytes = level === 'entries' ? bundle : tiles[level]
    if (bytes && changed(level === 'entries' ? 0 : level, edge.size, size))
      files.set(tilePath(level, index, width), bytes)
  }
  return { edge: { size, bundle, tiles }, files }
}

/** Adds the bundles that `entries` fill; gives the partial one behind them. */
function cutBundles({ size, bundle }: Edge, entries: EntryBatch, files: Map<string, Uint8Array>): Uint8Array {
  const [first, ...others] = entries.bundles
  if (!first) return bundle
  const bundles = [bundle.length === 0 ? first : Buffer.concat([bundle, first]), ...others]
  const from = Math.floor(size / WIDTH)
  const full = Math.floor(entries.next / WIDTH) - from
  for (const [i, bytes] of bundles.slice(0, full).entries())
    files.set(tilePath('entries', from + i, WIDTH), bytes)
  // A copy: the edge lives on and must not hold on to the batch.
  return Buffer.from(bundles[full] ?? EMPTY_EDGE.bundle)
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
