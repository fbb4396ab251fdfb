/**
 * Brings the journals of sessions into the log, each record once. Cursors commit with the entries, so that whatever
 * kills this process, the next one goes on exactly behind what the log holds.
 */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import * as z from 'zod'
import { errnoOf } from '../lib/errors.ts'
import type { Fact } from './fact.ts'
import { type Followed, Follower } from './follow.ts'
import { MAGIC, readJournal } from './journal-reader.ts'
import type { Head, Log } from './log.ts'
import { replaceFile } from './log-files.ts'
import type { Cursor, Cursors } from './log-state.ts'
import { type EventContext, EventEncoder } from './ocsf.ts'

/** Journals of a session; `daemon` is written by ambitd about sessions that could not speak for themselves. */
export const JOURNALS = ['run', 'view', 'launch', 'daemon'] as const
/** Facts, and bytes of journals, of one commit: enough to share its flushes, little enough to hold in memory. */
const MAX_BATCH = 8192
const MAX_BATCH_BYTES = 16 * 2 ** 20
/**
 * A session's requests wait for the same processors: without haste a share of facts (some milliseconds of work) is
 * followed by a pause, so that no burst stands before them; smaller shares cost more for each fact, since what a
 * processor had at hand is gone after each pause. A full batch, which is a lag of about a second, ends the pauses until
 * all is sequenced.
 */
const SHARE = 256
const PAUSE_MS = 20
const START: Cursor = { offset: 0, dead: null }
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

  /** Sequences all that journals hold now; signs a checkpoint if anything was new. Rejects with ERR_LOG_FAILED. */
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
    for (let { pause } = pace; ; pause = rest) {
      const parts = sessions.map((session) => new Part(session, device, session === final))
      const streams = parts.flatMap((part) => part.streams)
      const entries = await takeBatch(streams, log.size, { ...pace, pause })
      if (entries.length === 0) return
      // What is not full is most likely the last one: its checkpoint shares its syncs.
      await log.appendBatch(entries, this.#cursorsAfter(streams), { sign: entries.length < MAX_BATCH })
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

interface Pace {
  /** Between two shares of a batch. */
  readonly pause: () => Promise<void>
  /** Facts after this (monotonic microseconds) wait for the next call, or pauses would part what lies side by side. */
  readonly until: number
}
const rest = (): Promise<void> => Promise.resolve()
const AT_ONCE: Pace = { pause: rest, until: Number.POSITIVE_INFINITY }

/** How a session ended and how many facts of each kind it had; `outcome` is null where it did not say. */
export interface SessionEnd {
  readonly counters: Readonly<Record<string, number>>
  readonly outcome: Outcome | null
}

type Outcome = Extract<Fact, { k: 'session.end' }>['outcome']

/** Waits for all, also when one fails: nothing of a step may be under way when the next one begins. */
async function together(work: readonly Promise<unknown>[]): Promise<void> {
  for (const one of await Promise.allSettled(work)) if (one.status === 'rejected') throw one.reason
}

/** What some facts say of their session. */
class Tally {
  readonly counters: Record<string, number> = {}
  start: EventContext['start'] = null
  outcome: Outcome | null = null

  add(fact: Fact): void {
    if (fact.k === 'session.start') this.start ??= fact
    if (fact.k === 'session.end') this.outcome = fact.outcome
    this.counters[fact.k] = (this.counters[fact.k] ?? 0) + 1
  }

  join({ counters, start, outcome }: Tally): void {
    this.start ??= start
    this.outcome = outcome ?? this.outcome
    for (const [kind, count] of Object.entries(counters))
      this.counters[kind] = (this.counters[kind] ?? 0) + count
  }
}

/** A session's share of one batch. */
class Part {
  readonly session: FollowedSession
  readonly streams: readonly Stream[]
  readonly #tally = new Tally()
  readonly #device: EventContext['device']
  #encoder: EventEncoder

  constructor(session: FollowedSession, device: EventContext['device'], final: boolean) {
    this.session = session
    this.#device = device
    this.#encoder = new EventEncoder({ device, start: session.start }, session.id)
    this.streams = session.followers.map((follower) => new Stream(this, follower, final))
  }

  encode(fact: Fact, place: { journal: string; offset: number }, index: number): Buffer {
    if (fact.k === 'session.start' && !this.session.start && !this.#tally.start)
      this.#encoder = new EventEncoder({ device: this.#device, start: fact }, this.session.id)
    this.#tally.add(fact)
    return this.#encoder.encode(fact, place, index)
  }

  /** The log has what was taken. */
  pass(): void {
    this.session.learn(this.#tally)
    for (const { follower, after } of this.streams) if (after) follower.advance(after)
  }
}

/** One journal's share of one batch, fact by fact: kept until the batch is whole, facts would crowd the heap. */
class Stream {
  readonly part: Part
  readonly follower: Follower
  readonly #facts: Generator<Followed>
  head: Followed | undefined
  /** Behind the last fact that was taken; null before the first. */
  after: Cursor | null = null

  constructor(part: Part, follower: Follower, final: boolean) {
    this.part = part
    this.follower = follower
    this.#facts = follower.read(final)
    this.#next()
  }

  /** The entry that the head becomes; the next fact is the head. */
  take({ fact, offset, after }: Followed, index: number): Buffer {
    const entry = this.part.encode(fact, { journal: this.follower.name, offset }, index)
    this.after = after
    this.#next()
    return entry
  }

  #next(): void {
    const step = this.#facts.next()
    this.head = step.done ? undefined : step.value
  }
}

class FollowedSession {
  readonly id: string
  readonly dir: string
  readonly followers: readonly Follower[]
  readonly #known = new Tally()

  constructor(id: string, dir: string, cursors: Readonly<Record<string, Cursor>>) {
    this.id = id
    this.dir = dir
    this.followers = JOURNALS.map((name) => {
      const cursor = cursors[name] ?? START
      const path = join(dir, 'journal', `${name}.wal`)
      this.#recall(path, cursor.offset)
      return new Follower(path, name, cursor)
    })
  }

  get start(): EventContext['start'] {
    return this.#known.start
  }

  get counters(): Readonly<Record<string, number>> {
    return this.#known.counters
  }

  get outcome(): Outcome | null {
    return this.#known.outcome
  }

  get cursors(): Record<string, Cursor> {
    return Object.fromEntries(this.followers.map(({ name, cursor }) => [name, cursor]))
  }

  /** The log has it. */
  learn(tally: Tally): void {
    this.#known.join(tally)
  }

  close(): void {
    for (const follower of this.followers) follower.close()
  }

  /** What an earlier sequencer knew of the part that is in the log already. */
  #recall(path: string, end: number): void {
    if (end === 0 || !existsSync(path)) return
    for (const { fact, next } of readJournal(path)) {
      if (next > end) return
      this.#known.add(fact)
    }
  }
}

/**
 * The next facts of all sessions as entries from `size` on, merged by their monotonic clock; each journal keeps its own
 * order. Clocks of different boots do not compare: recovery therefore drains one session at a time.
 */
async function takeBatch(
  streams: readonly Stream[],
  size: number,
  { pause, until }: Pace,
): Promise<Buffer[]> {
  const entries: Buffer[] = []
  let bytes = 0
  while (entries.length < MAX_BATCH && bytes < MAX_BATCH_BYTES) {
    let first: Stream | undefined
    for (const stream of streams) {
      if (stream.head && (!first?.head || stream.head.fact.m < first.head.fact.m)) first = stream
    }
    if (!first?.head || first.head.fact.m > until) break
    const { offset, after } = first.head
    entries.push(first.take(first.head, size + entries.length))
    bytes += after.offset - offset
    if (entries.length % SHARE === 0) await pause()
  }
  return entries
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
