/** C2SP checkpoints (https://c2sp.org/tlog-checkpoint v1.0.0): origin, size, root; signed as a note. */
import { AmbitError } from '../lib/errors.ts'
import { type Signer, type Verifier, decode, openNote, signNote } from './note.ts'
import type { Hash } from './tlog.ts'

export interface Checkpoint {
  readonly origin: string
  readonly size: number
  readonly root: Hash
}

export const signCheckpoint = (size: number, root: Hash, signer: Signer): string =>
  signNote(`${signer.name}\n${size}\n${Buffer.from(root).toString('base64')}\n`, signer)

/** The checkpoint in `note`, if the log of `verifier` signed it. Throws ERR_LOG_INCONSISTENT. */
export function openCheckpoint(note: string, verifier: Verifier): Checkpoint {
  const checkpoint = parseCheckpoint(openNote(note, verifier))
  if (checkpoint.origin !== verifier.name) throw refused('it belongs to another log')
  return checkpoint
}

/** Extension lines after the root are allowed and ignored, as the specification asks. */
export function parseCheckpoint(text: string): Checkpoint {
  const [origin, size, root, ...rest] = text.split('\n')
  const hash = decode(root ?? '')
  if (!origin || !/^(0|[1-9][0-9]{0,15})$/.test(size ?? '') || hash?.length !== 32 || rest.at(-1) !== '') {
    throw refused('it is not of the form origin, size, root')
  }
  if (!Number.isSafeInteger(Number(size))) throw refused('its size is beyond measure')
  return { origin, size: Number(size), root: hash }
}

const refused = (why: string): AmbitError =>
  new AmbitError('ERR_LOG_INCONSISTENT', 'the checkpoint was refused', why)
