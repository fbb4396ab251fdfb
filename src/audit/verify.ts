/**
 * Verifies a log directory with nothing but its verifier key: the checkpoint's signature, every entry against its leaf
 * hash, every tile against the level below, and the root. Never repairs, never fills in.
 */
import { join } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { readRegular } from '../lib/small-file.ts'
import { type Checkpoint, openCheckpoint } from './checkpoint.ts'
import { parseVerifierKey } from './note.ts'
import { WIDTH, hashReader, hashesAt, readBundle, readHashes, tilePath, tileWidth } from './tiles.ts'
import { type Hash, equal, foldHashes, leafHash, treeRoot } from './tlog.ts'

/** Bytes of a checkpoint: a few lines, and signatures. */
const LONGEST_NOTE = 1 << 20

/** `index`: the first entry that is, or may be, bad; null when the fault is not one of entries. */
export type Verification =
  | { readonly ok: true; readonly size: number; readonly root: string }
  | { readonly ok: false; readonly why: string; readonly index: number | null }

/** A fault with its place; carried as an exception so that the checks read in their order. */
class Fault extends Error {
  readonly index: number | null
  constructor(why: string, index: number | null) {
    super(why)
    this.index = index
  }
}

/** Verifies the log in `dir` as far as its checkpoint, which `vkey` must have signed. Throws ERR_KEY_INVALID. */
export async function verifyLog(dir: string, vkey: string): Promise<Verification> {
  const verifier = parseVerifierKey(vkey)
  try {
    const checkpoint = openCheckpoint(readNote(dir), verifier)
    let hashes = await checkEntries(dir, checkpoint.size)
    for (let level = 1; hashesAt(level, checkpoint.size) > 0; level++)
      hashes = checkLevel(dir, level, checkpoint.size, hashes)
    checkRoot(dir, checkpoint)
    return { ok: true, size: checkpoint.size, root: Buffer.from(checkpoint.root).toString('base64') }
  } catch (error) {
    if (error instanceof Fault) return { ok: false, why: error.message, index: error.index }
    if (error instanceof AmbitError) return { ok: false, why: `${error.what}: ${error.why}`, index: null }
    throw error
  }
}

function readNote(dir: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
      readRegular(join(dir, 'checkpoint'), LONGEST_NOTE),
    )
  } catch (error) {
    throw new Fault(`the checkpoint cannot be read: ${messageOf(error)}`, null)
  }
}

/** Entries against the leaf hashes of level 0. Gives the roots of the full tiles, in order. */
async function checkEntries(dir: string, size: number): Promise<Hash[]> {
  const roots: Hash[] = []
  for (let tile = 0; tile * WIDTH < size; tile++) {
    const first = tile * WIDTH
    const width = tileWidth(0, tile, size)
    const leaves = located(first, () => readHashes(dir, 0, tile, width))
    const { entries, bad } = located(first, () => readBundle(dir, tile, width))
    for (const [i, entry] of entries.entries()) {
      if (!equal(leafHash(entry), leaves[i] ?? Buffer.alloc(0))) {
        throw new Fault(`entry ${first + i} is not what ${tilePath(0, tile, width)} was made of`, first + i)
      }
    }
    if (bad !== null)
      throw new Fault(
        `${tilePath('entries', tile, width)} does not hold its ${width} entries, whole`,
        first + bad,
      )
    if (width === WIDTH) roots.push(foldHashes(leaves))
    if (tile % 16 === 15) await breathe()
  }
  return roots
}

/** Tiles of `level` against `below`, the roots of the full tiles one level down. Gives this level's. */
function checkLevel(dir: string, level: number, size: number, below: readonly Hash[]): Hash[] {
  const roots: Hash[] = []
  const span = WIDTH ** level
  for (let tile = 0; tile * WIDTH < below.length; tile++) {
    const width = tileWidth(level, tile, size)
    const hashes = located(tile * WIDTH * span, () => readHashes(dir, level, tile, width))
    const bad = hashes.findIndex((hash, i) => !equal(hash, below[tile * WIDTH + i] ?? Buffer.alloc(0)))
    if (bad >= 0) {
      const from = (tile * WIDTH + bad) * span
      throw new Fault(
        `${tilePath(level, tile, width)} was not made of the entries ${from} to ${from + span - 1}`,
        from,
      )
    }
    if (width === WIDTH) roots.push(foldHashes(hashes))
  }
  return roots
}

/**
 * Entries and tiles agree; do they give what was signed? If not, they were changed together, and nothing but the root
 * anchors them: any entry may be the changed one.
 */
function checkRoot(dir: string, { size, root }: Checkpoint): void {
  if (equal(treeRoot(size, hashReader(dir, size)), root)) return
  throw new Fault('the tree is not the one that was signed: entries and tiles were changed together', null)
}

function located<T>(index: number, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof AmbitError) throw new Fault(`${error.what}: ${error.why}`, index)
    throw error
  }
}
