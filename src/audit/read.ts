/** Reads the log's events, oldest first, as far as its checkpoint goes. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { type Checkpoint, parseCheckpoint } from './checkpoint.ts'
import { WIDTH, readBundle, tileWidth } from './tiles.ts'

/** One event; `json` is the entry as it was hashed. Its texts are the agent's: printable() before a person sees them. */
export interface LogEvent {
  readonly index: number
  readonly session: string
  readonly time: number
  readonly kind: string
  readonly message: string
  readonly json: string
}

export interface ReadOptions {
  /** Only events of this session. */
  readonly session?: string
  /** First index. */
  readonly from?: number
}

/**
 * Events of the log in `dir`; none when there is no log yet. Reading proves nothing: verify.ts does. Throws
 * ERR_LOG_INCONSISTENT when a bundle is missing or not whole.
 */
export function* readEvents(dir: string, { session, from = 0 }: ReadOptions = {}): Generator<LogEvent> {
  const size = readCheckpoint(dir)?.size ?? 0
  for (let tile = Math.floor(from / WIDTH); tile * WIDTH < size; tile++) {
    const { entries, bad } = readBundle(dir, tile, tileWidth('entries', tile, size))
    for (const [i, entry] of entries.entries()) {
      const index = tile * WIDTH + i
      if (index < from || (session !== undefined && !entry.includes(session))) continue
      const event = parseEvent(index, entry.toString('utf8'))
      if (session === undefined || event.session === session) yield event
    }
    if (bad !== null) throw broken(tile * WIDTH + bad, 'it is not whole')
  }
}

/** The checkpoint in `dir`, its signature unchecked; null when there is none. */
export function readCheckpoint(dir: string): (Checkpoint & { readonly note: string }) | null {
  try {
    const note = readFileSync(join(dir, 'checkpoint'), 'utf8')
    const text = note.slice(0, note.lastIndexOf('\n\n') + 1)
    return { ...parseCheckpoint(text), note }
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null
    throw error
  }
}

function parseEvent(index: number, json: string): LogEvent {
  try {
    const event = JSON.parse(json) as {
      time?: unknown
      message?: unknown
      ambit?: { session?: unknown; kind?: unknown }
    }
    const { time, message, ambit } = event
    return {
      index,
      time: typeof time === 'number' && Math.abs(time) < 8.64e15 ? time : 0,
      message: text(message),
      session: text(ambit?.session),
      kind: text(ambit?.kind),
      json,
    }
  } catch (error) {
    throw broken(index, messageOf(error))
  }
}

const text = (value: unknown): string => (typeof value === 'string' ? value : '')

const broken = (index: number, why: string): AmbitError =>
  new AmbitError(
    'ERR_LOG_INCONSISTENT',
    `could not read entry ${index} of the log`,
    why,
    'run ambit log verify',
  )
