/** Offline proofs that an entry is in the log (https://c2sp.org/tlog-proof): for somebody who has only the key. */
import { AmbitError } from '../lib/errors.ts'
import { readCheckpoint } from './read.ts'
import { hashReader } from './tiles.ts'
import { inclusionProof } from './tlog.ts'

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
