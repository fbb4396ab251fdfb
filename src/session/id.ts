import { randomBytes } from 'node:crypto'

declare const brand: unique symbol
/** Names one session: sortable by start, safe in file names, e.g. `s1h2k3m4-x7q2`. */
export type SessionId = string & { readonly [brand]: 'SessionId' }

const PATTERN = /^s[0-9a-z]{8}-[0-9a-z]{6}$/

/** An id that sorts by the second of its start and that nobody can guess in passing. */
export function newSessionId(now: number = Date.now()): SessionId {
  const time = Math.floor(now / 1000)
    .toString(36)
    .padStart(8, '0')
  const noise = (randomBytes(4).readUInt32BE() % 36 ** 6).toString(36).padStart(6, '0')
  return `s${time}-${noise}` as SessionId
}

/** The id in `text`, or null. Ids come from command lines and daemon peers. */
export const parseSessionId = (text: string): SessionId | null =>
  PATTERN.test(text) ? (text as SessionId) : null
