/**
 * The next facts of all sessions as entries of the log, merged by their monotonic clock; each journal keeps its own
 * order. Facts that come by the thousand become entries natively, by the run; any other, and one that is not in its
 * usual form, is parsed and encoded here.
 */
import type { FactEncoder, FactRun } from '../lib/native.ts'
import type { EntryBatch } from './entry-batch.ts'
import { type FollowedSession, Tally } from './followed-session.ts'
import type { Followed, Follower } from './follow.ts'
import type { Cursor } from './log-state.ts'
import { type EventContext, EventEncoder } from './ocsf.ts'

/** Facts, and bytes of journals, of one commit: enough to share its flushes, little enough to hold in memory. */
const MAX_BATCH = 8192
const MAX_BATCH_BYTES = 16 * 2 ** 20
/** Facts between two pauses. */
const SHARE = 256

/** How a batch is gathered. */
export interface Pace {
  /**
   * Follows each share of facts (some milliseconds of work). A session's requests wait for the same processors:
   * without haste it is a rest, so that no burst stands before them. Smaller shares cost more for each fact, since what
   * a processor had at hand is gone after each pause.
   */
  readonly pause: () => Promise<void>
  /** Facts after this (monotonic microseconds) wait for the next call, or pauses would part what lies side by side. */
  readonly until: number
}

/**
 * Fills `entries`; true when the batch is full, so that more may be due. Clocks of different boots do not compare:
 * recovery therefore drains one session at a time.
 */
export async function gather(
  streams: readonly Stream[],
  entries: EntryBatch,
  { pause, until }: Pace,
): Promise<boolean> {
  let bytes = 0
  while (entries.count < MAX_BATCH && bytes < MAX_BATCH_BYTES) {
    const first = earliest(streams)
    if (first?.due === undefined || first.due > until) return false
    const share = SHARE - (entries.count % SHARE)
    bytes += first.take(entries, share, Math.min(until, turnOf(first, streams)))
    if (entries.count % SHARE === 0) await pause()
  }
  return true
}

/** The stream whose next fact is the oldest; of equal ones the first. */
function earliest(streams: readonly Stream[]): Stream | undefined {
  let first: Stream | undefined
  for (const stream of streams)
    if (stream.due !== undefined && (first?.due === undefined || stream.due < first.due)) first = stream
  return first
}

/** The latest fact of `own` that goes before those of all others. */
function turnOf(own: Stream, streams: readonly Stream[]): number {
  let last = Number.POSITIVE_INFINITY
  let before = true
  for (const stream of streams) {
    if (stream === own) before = false
    else if (stream.due !== undefined) last = Math.min(last, before ? stream.due - 1 : stream.due)
  }
  return last
}

/** A session's share of one batch. */
export class Part {
  readonly session: FollowedSession
  readonly streams: readonly Stream[]
  readonly tally = new Tally()
  readonly #device: EventContext['device']
  encoder: EventEncoder

  constructor(session: FollowedSession, device: EventContext['device'], final: boolean) {
    this.session = session
    this.#device = device
    this.encoder = new EventEncoder({ device, start: session.start }, session.id)
    this.streams = session.followers.map((follower) => new Stream(this, follower, final))
  }

  encode({ fact, offset }: Followed, journal: string, index: number): Buffer {
    if (fact.k === 'session.start' && !this.session.start && !this.tally.start)
      this.encoder = new EventEncoder({ device: this.#device, start: fact }, this.session.id)
    this.tally.add(fact)
    return this.encoder.encode(fact, { journal, offset }, index)
  }

  /** The log has what was taken. */
  pass(): void {
    this.session.learn(this.tally)
    for (const { follower, after } of this.streams) if (after) follower.advance(after)
  }
}

const NO_ROOM = Buffer.alloc(0)

/** One journal's share of one batch. */
export class Stream {
  readonly part: Part
  readonly follower: Follower
  /** The next fact, unless it is to become an entry natively. */
  #one: Followed | null = null
  /** Monotonic clock of the next fact; undefined where there is none. */
  due: number | undefined
  /** Behind the last fact that was taken; null before the first. */
  after: Cursor | null = null

  constructor(part: Part, follower: Follower, final: boolean) {
    this.part = part
    this.follower = follower
    follower.begin(final)
    this.#look(this.#glance())
  }

  /** Takes its next fact and at most `most - 1` behind it, none later than `until`; gives the bytes of their records. */
  take(entries: EntryBatch, most: number, until: number): number {
    const run = this.#one ? null : this.#run(entries, most, until)
    if (run && run.count > 0) {
      this.follower.skip(run.read, run)
      this.after = this.follower.passed
      this.part.tally.addRun(run)
      this.#look(run.next ?? this.#glance())
      return run.read
    }
    const one = this.#one ?? this.follower.next()
    if (!one) throw new TypeError('a fact that was there is gone')
    entries.add(this.part.encode(one, this.follower.name, entries.next))
    this.after = one.after
    this.#look(this.#glance())
    return one.after.offset - one.offset
  }

  #look(due: number | undefined): void {
    this.#one = due === undefined ? this.follower.next() : null
    this.due = due ?? this.#one?.fact.m
  }

  /** When the next fact was recorded, where it can become an entry natively. */
  #glance(): number | undefined {
    const ahead = this.follower.ahead()
    return ahead ? this.#encoder.encode(ahead.bytes, ahead.offset, NO_ROOM, 0, 0, 0, 0).next : undefined
  }

  #run(entries: EntryBatch, most: number, until: number): FactRun | null {
    const ahead = this.follower.ahead()
    if (!ahead) return null
    const { bytes, offset } = ahead
    return entries.fill(most, (room, used, count) =>
      this.#encoder.encode(bytes, offset, room, used, entries.next, count, until),
    )
  }

  get #encoder(): FactEncoder {
    return this.part.encoder.frequent(this.follower.name)
  }
}
