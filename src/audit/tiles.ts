/** C2SP tlog-tiles (https://c2sp.org/tlog-tiles v0.1.0): names of tiles, entry bundles, reading hashes from disk. */
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { readRegular } from '../lib/small-file.ts'
import { type Hash, type HashReader, foldHashes } from './tlog.ts'

/** Hashes, or entries, of a full tile. */
export const WIDTH = 256
export const HASH = 32
/** Longest entry, bytes: its length is a uint16. */
export const MAX_ENTRY = 65_535

/** Longest tile, bytes: entries with their lengths. */
const LONGEST = WIDTH * (MAX_ENTRY + 2)

export type Level = number | 'entries'

/** Path of a tile under the log's directory; `width` 256 for a full one. */
export function tilePath(level: Level, index: number, width: number): string {
  const groups: string[] = []
  for (let rest = index; groups.length === 0 || rest > 0; rest = Math.floor(rest / 1000)) {
    groups.unshift(String(rest % 1000).padStart(3, '0'))
  }
  const name = groups.map((group, i) => (i < groups.length - 1 ? `x${group}` : group)).join('/')
  return `tile/${level}/${name}${width === WIDTH ? '' : `.p/${width}`}`
}

/** Complete hashes at tile level `level` of a tree of `size`. */
export const hashesAt = (level: number, size: number): number => Math.floor(size / WIDTH ** level)

/** Width of tile `index` at `level` in a tree of `size`; 0 when it does not exist. */
export function tileWidth(level: Level, index: number, size: number): number {
  const hashes = hashesAt(level === 'entries' ? 0 : level, size)
  return Math.max(0, Math.min(WIDTH, hashes - index * WIDTH))
}

/** Partial tiles of a tree of `size`: at most one a level. */
export function partialTiles(size: number): { level: Level; index: number; width: number }[] {
  const tiles: { level: Level; index: number; width: number }[] = []
  for (let level = 0; hashesAt(level, size) > 0; level++) {
    const width = hashesAt(level, size) % WIDTH
    const index = Math.floor(hashesAt(level, size) / WIDTH)
    if (width === 0) continue
    if (level === 0) tiles.push({ level: 'entries', index, width })
    tiles.push({ level, index, width })
  }
  return tiles
}

/** Entries as they lie in a bundle, one after the other: u16be length, bytes. */
export function frameEntries(entries: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const entry of entries) {
    if (entry.length > MAX_ENTRY) throw new TypeError('entry too long for the log')
    length += 2 + entry.length
  }
  const framed = Buffer.allocUnsafeSlow(length)
  let at = 0
  for (const entry of entries) {
    framed.writeUInt16BE(entry.length, at)
    framed.set(entry, at + 2)
    at += 2 + entry.length
  }
  return framed
}

/** The entries of a bundle of exactly `width`; `bad` is the place of the first that is not whole, or of a surplus. */
export function parseBundle(bytes: Buffer, width: number): { entries: Buffer[]; bad: number | null } {
  const entries: Buffer[] = []
  let at = 0
  while (entries.length < width) {
    if (at + 2 > bytes.length) return { entries, bad: entries.length }
    const end = at + 2 + bytes.readUInt16BE(at)
    if (end > bytes.length) return { entries, bad: entries.length }
    entries.push(bytes.subarray(at + 2, end))
    at = end
  }
  return { entries, bad: at === bytes.length ? null : width }
}

/** Hashes of a tile's bytes. */
export const splitTile = (bytes: Uint8Array): Hash[] =>
  Array.from({ length: Math.floor(bytes.length / HASH) }, (_, i) => bytes.subarray(i * HASH, (i + 1) * HASH))

/** A tile that is not there or not of its size. Never made anew: that would hide the loss (A-11). */
export function missingTile(path: string, why: string): AmbitError {
  return new AmbitError(
    'ERR_LOG_INCONSISTENT',
    `the log's ${path}`,
    why,
    'restore it from a copy; ambit will not rebuild it',
  )
}

/**
 * Bytes of a tile. Only the newest partial tiles stay on disk, so that a reader with an older checkpoint takes a wider
 * tile in place of its own: the same hashes, and more. `exact` false says that the bytes may hold more.
 */
function readTile(
  dir: string,
  level: Level,
  index: number,
  width: number,
): { bytes: Buffer; exact: boolean } {
  const path = tilePath(level, index, width)
  const found = readIfThere(dir, path)
  if (found) return { bytes: found, exact: true }
  const wider = width === WIDTH ? undefined : widerTile(dir, level, index, width)
  if (!wider) throw missingTile(path, 'it is missing')
  return { bytes: wider, exact: false }
}

function widerTile(dir: string, level: Level, index: number, width: number): Buffer | undefined {
  const partial = dirname(join(dir, tilePath(level, index, width)))
  const names = fs.existsSync(partial) ? fs.readdirSync(partial) : []
  const widths = [...names.map(Number).filter((found) => found > width && found < WIDTH), WIDTH]
  for (const candidate of widths.sort((a, b) => a - b)) {
    const bytes = readIfThere(dir, tilePath(level, index, candidate))
    if (bytes) return bytes
  }
  return undefined
}

function readIfThere(dir: string, path: string): Buffer | undefined {
  try {
    return readRegular(join(dir, path), LONGEST)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw missingTile(path, messageOf(error))
  }
}

/** Exactly `width` hashes of a tile. */
export function readHashes(dir: string, level: number, index: number, width: number): Hash[] {
  const { bytes, exact } = readTile(dir, level, index, width)
  const path = tilePath(level, index, width)
  if (bytes.length % HASH !== 0 || (exact ? bytes.length !== width * HASH : bytes.length < width * HASH)) {
    throw missingTile(path, `it holds ${bytes.length} bytes instead of ${width * HASH}`)
  }
  return splitTile(bytes.subarray(0, width * HASH))
}

/** The entries of a bundle. */
export function readBundle(
  dir: string,
  index: number,
  width: number,
): { entries: Buffer[]; bad: number | null } {
  const { bytes, exact } = readTile(dir, 'entries', index, width)
  const { entries, bad } = parseBundle(bytes, width)
  return { entries, bad: !exact && bad === width ? null : bad }
}

/** Hashes of the tree of `size` in `dir`; keeps the last tile of each level. */
export function hashReader(dir: string, size: number): HashReader {
  const kept = new Map<number, { index: number; hashes: Hash[] }>()
  return (level, index) => {
    const tileLevel = Math.floor(level / 8)
    const count = 2 ** (level % 8)
    const tile = Math.floor((index * count) / WIDTH)
    let found = kept.get(tileLevel)
    if (found?.index !== tile) {
      found = { index: tile, hashes: readHashes(dir, tileLevel, tile, tileWidth(tileLevel, tile, size)) }
      kept.set(tileLevel, found)
    }
    const start = (index * count) % WIDTH
    return foldHashes(found.hashes.slice(start, start + count))
  }
}
