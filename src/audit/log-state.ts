/** `state.json`: how far the log reaches and what of the journals it holds. Its rename is the commit point. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as z from 'zod'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'

const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)
const CURSOR = z.strictObject({ offset: count, dead: z.string().max(1024).nullable() })
const STATE = z.strictObject({
  v: z.literal(1),
  origin: z.string().max(255),
  size: count,
  root: z.string().length(44),
  cursors: z.record(z.string().max(256), CURSOR),
})

/** How far a journal has been sequenced; `dead` says why nothing more of it will be read. */
export type Cursor = Readonly<z.infer<typeof CURSOR>>
/** Key: `<session>/<journal>`. */
export type Cursors = Readonly<Record<string, Cursor>>
export type LogState = Readonly<z.infer<typeof STATE>>

/** The committed state of the log in `dir`, or null when there is none. Throws ERR_LOG_INCONSISTENT. */
export function readState(dir: string): LogState | null {
  let text: string
  try {
    text = readFileSync(join(dir, 'state.json'), 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null
    throw refused(messageOf(error))
  }
  const result = STATE.safeParse(parse(text))
  if (!result.success) throw refused('it is not of the form this version writes')
  return result.data
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw refused('it is not JSON')
  }
}

/** What is left to do about a log that is refused (docs/operations.md). */
export const ANEW =
  'run ambit log verify; to begin anew, end ambitd, move log and keys/log.key away together, and keep them'

const refused = (why: string): AmbitError =>
  new AmbitError('ERR_LOG_INCONSISTENT', "the log's state.json was refused", why, ANEW)
