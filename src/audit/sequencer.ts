/**
 * Brings the journals of sessions into the log, each record once. Cursors commit with the entries, so that whatever
 * kills this process, the next one goes on exactly behind what the log holds.
 */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import * as z from 'zod'
import { errnoOf } from '../lib/errors.ts'
import { EntryBatch } from './entry-batch.ts'
import { FollowedSession, JOURNALS, type Outcome, START } from './followed-session.ts'
import { type Pace, Part, type Stream, gather } from './gather.ts'
import { MAGIC } from './journal-reader.ts'
import type { Head, Log } from './log.ts'
import { replaceFile } from './log-files.ts'
import type { Cursor, Cursors } from './log-state.ts'
import type { EventContext } from './ocsf.ts'

/** See `Pace.pause`: until the first full batch, which is a lag of about a second. */
const PAUSE_MS = 20
const SEALED = 'sealed.json'

export interface SequencerOptions {
  readonly log: Log
  readonly device: EventContext['device']
  /** Directory of session `id`. */
  readonly dirOf: (id: string) => string
}

/** Follows sessions into one log. Its calls may overlap; the work is done one after the other. */
export class Sequencer {
  readonly #options: SequencerOptions
  readonly #sessions = new Map<string, FollowedSession>()
  /** Cursors of sealed sessions, to be left out of the next commit. */
  readonly #drop = new Set<string>()
  #turn: Promise<unknown> = Promise.resolve()
  /** Calls that somebody waits for. */
  #urgent = 0

  constructor(options: SequencerOptions) {
    this.#options = options
  }

  /** Begins to follow session `id` behind what the log has of it. */
  follow(id: string): void {
    if (this.#sessions.has(id)) return
    const dir = this.#options.dirOf(id)
    const cursors = { ...readSeal(dir), ...cursorsOf(this.#options.log.cursors, id) }
    this.#sessions.set(id, new FollowedSession(id, dir, cursors))
  }

  /** Facts sequenced so far of a followed session, by kind. */
  counters(id: string): Readonly<Record<string, number>> {
    return this.#sessions.get(id)?.counters ?? {}
  }

  /**
   * Sequences all that journals hold now; signs a checkpoint if anything was new. Rejects with ERR_LOG_FAILED, or with
   * the system's error where a journal cannot be read at the moment: nothing is lost, and the next call reads on.
   */
  sequence(): Promise<Head> {
    return this.#urgently(() => this.#sequenceAll(AT_ONCE))
  }

  /** The same for what was recorded until now, in small shares with pauses for as long as nobody waits for it. */
  sequenceGently(): Promise<Head> {
    return this.#exclusive(() =>
      this.#sequenceAll({
        until: Number(process.hrtime.bigint() / 1000n),
        pause: () => (this.#urgent > 0 ? rest() : sleep(PAUSE_MS)),
      }),
    )
  }

  async #sequenceAll(pace: Pace): Promise<Head> {
    await this.#drain([...this.#sessions.values()], null, pace)
    await this.#options.log.publish()
    return this.#options.log.head
  }

  /**
   * The same to the very end of session `id`, which nobody writes any more; then forgets it. `conclude` is told what it
   * was and works beside the last syncs, when all of it is committed.
   */
  finish(id: string, conclude: (end: SessionEnd) => Promise<void> = rest): Promise<Head> {
    return this.#urgently(async () => {
      const { log } = this.#options
      const session = this.#sessions.get(id)
      if (!session) {
        await this.#sequenceAll(AT_ONCE)
        await conclude({ counters: {}, outcome: null })
        return log.head
      }
      await this.#drain([...this.#sessions.values()], session, AT_ONCE)
      const { counters, outcome } = session
      await together([log.publish(), this.#seal(session), conclude({ counters: { ...counters }, outcome })])
      return log.head
    })
  }

  /** The same for a session whose directory is gone: nothing is left to seal. */
  abandon(id: string): Promise<Head> {
    return this.#urgently(async () => {
      const session = this.#sessions.get(id)
      if (session) {
        await this.#drain([session], session, AT_ONCE)
        this.#retire(session)
      }
      await this.#options.log.publish()
      return this.#options.log.head
    })
  }

  async #drain(
    sessions: readonly FollowedSession[],
    final: FollowedSession | null,
    pace: Pace,
  ): Promise<void> {
    const { log, device } = this.#options
    const entries = new EntryBatch(log.size)
    for (let { pause } = pace; ; pause = rest) {
      entries.restart(log.size)
      const parts = sessions.map((session) => new Part(session, device, session === final))
      const streams = parts.flatMap((part) => part.streams)
      const more = await gather(streams, entries, { ...pace, pause })
      if (entries.count === 0) return
      // Where nothing more is due it is most likely the last one: its checkpoint shares its syncs.
      await log.appendBatch(entries, this.#cursorsAfter(streams), { sign: !more })
      for (const part of parts) part.pass()
      this.#drop.clear()
    }
  }

  #cursorsAfter(streams: readonly Stream[]): Cursors {
    const cursors = { ...this.#options.log.cursors }
    for (const { after, follower, part } of streams)
      if (after) cursors[`${part.session.id}/${follower.name}`] = after
    for (const key of this.#drop) delete cursors[key]
    return cursors
  }

  /** Moves the session's cursors out of the log's state, which would else grow with every session there ever was. */
  async #seal(session: FollowedSession): Promise<void> {
    const text = JSON.stringify({ v: 1, cursors: session.cursors, size: this.#options.log.size })
    await replaceFile(join(session.dir, SEALED), Buffer.from(text))
    this.#retire(session)
  }

  #retire(session: FollowedSession): void {
    for (const name of Object.keys(session.cursors)) this.#drop.add(`${session.id}/${name}`)
    session.close()
    this.#sessions.delete(session.id)
  }

  async #urgently<T>(work: () => Promise<T>): Promise<T> {
    this.#urgent++
    try {
      return await this.#exclusive(work)
    } finally {
      this.#urgent--
    }
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work)
    this.#turn = result.catch(() => undefined)
    return result
  }
}

const rest = (): Promise<void> => Promise.resolve()
const AT_ONCE: Pace = { pause: rest, until: Number.POSITIVE_INFINITY }

/** How a session ended and how many facts of each kind it had; `outcome` is null where it did not say. */
export interface SessionEnd {
  readonly counters: Readonly<Record<string, number>>
  readonly outcome: Outcome | null
}

/** Waits for all, also when one fails: nothing of a step may be under way when the next one begins. */
async function together(work: readonly Promise<unknown>[]): Promise<void> {
  for (const one of await Promise.allSettled(work)) if (one.status === 'rejected') throw one.reason
}

function cursorsOf(cursors: Cursors, id: string): Record<string, Cursor> {
  const own = Object.entries(cursors).filter(([key]) => key.startsWith(`${id}/`))
  return Object.fromEntries(own.map(([key, cursor]) => [key.slice(id.length + 1), cursor]))
}

const SEAL = z.object({
  v: z.literal(1),
  cursors: z.record(
    z.enum(JOURNALS),
    z.strictObject({ offset: z.number().int().min(0), dead: z.string().nullable() }),
  ),
})

/** Cursors with which session directory `dir` was sealed; empty when it was not. */
export function readSeal(dir: string): Readonly<Record<string, Cursor>> {
  try {
    return SEAL.parse(JSON.parse(readFileSync(join(dir, SEALED), 'utf8'))).cursors
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return {}
    throw error
  }
}

/** True when the seal of session directory `dir` covers all that its journals hold. */
export function isSealed(dir: string): boolean {
  const seal = readSeal(dir)
  if (Object.keys(seal).length === 0) return false
  return JOURNALS.every((name) => {
    const size = statSync(join(dir, 'journal', `${name}.wal`), { throwIfNoEntry: false })?.size ?? 0
    const cursor = seal[name] ?? START
    // A cursor begins before the header, and a journal without a record leaves it there.
    const empty = cursor.offset === 0 && size === MAGIC.length
    return cursor.dead !== null || cursor.offset === size || empty
  })
}
