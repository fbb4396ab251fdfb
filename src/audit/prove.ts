/** Offline proofs that an entry is in the log (https://c2sp.org/tlog-proof): for somebody who has only the key. */
import { AmbitError } from '../lib/errors.ts'
import { openCheckpoint } from './checkpoint.ts'
import { decode, parseVerifierKey } from './note.ts'
import { readCheckpoint } from './read.ts'
import { hashReader } from './tiles.ts'
import { inclusionProof, leafHash, verifyInclusion } from './tlog.ts'

const MAGIC = 'c2sp.org/tlog-proof@v1'

/** The `.tlog-proof` text of entry `index` of the log in `dir`. Throws ERR_INPUT_INVALID when there is no such entry. */
export function proveEntry(dir: string, index: number): string {
  const checkpoint = readCheckpoint(dir)
  if (!checkpoint || index >= checkpoint.size) {
    const why = `the log has ${checkpoint?.size ?? 0} entries, the first is 0`
    throw new AmbitError(
      'ERR_INPUT_INVALID',
      `could not prove entry ${index}`,
      why,
      'ambit log lists them in order',
    )
  }
  const hashes = inclusionProof(index, checkpoint.size, hashReader(dir, checkpoint.size))
  const lines = hashes.map((hash) => Buffer.from(hash).toString('base64'))
  return [MAGIC, `index ${index}`, ...lines, '', checkpoint.note].join('\n')
}

/** True when `proof` shows `entry` in the log of `vkey`. The proof is the attacker's. Throws ERR_LOG_INCONSISTENT. */
export function verifyProof(proof: string, entry: Uint8Array, vkey: string): boolean {
  const cut = proof.indexOf('\n\n')
  const [magic, ...lines] = proof.slice(0, Math.max(cut, 0)).split('\n')
  if (lines[0]?.startsWith('extra ')) lines.shift()
  const index = /^index (0|[1-9][0-9]{0,15})$/.exec(lines.shift() ?? '')?.[1]
  const hashes = lines.map(decode)
  if (
    magic !== MAGIC ||
    index === undefined ||
    !hashes.every((hash) => hash?.length === 32) ||
    hashes.length > 63
  ) {
    throw new AmbitError('ERR_LOG_INCONSISTENT', 'the proof was refused', 'it is not a C2SP tlog-proof')
  }
  const { size, root } = openCheckpoint(proof.slice(cut + 2), parseVerifierKey(vkey))
  return verifyInclusion(leafHash(entry), Number(index), size, hashes as Buffer[], root)
}
