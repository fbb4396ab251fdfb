/** A session whose journals are followed, and what their facts in the log say of it. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type FactRun, native } from '../lib/native.ts'
import type { Fact } from './fact.ts'
import { Follower } from './follow.ts'
import { readJournal } from './journal-reader.ts'
import type { Cursor } from './log-state.ts'
import type { EventContext } from './ocsf.ts'

/** Journals of a session; `daemon` is written by ambitd about sessions that could not speak for themselves. */
export const JOURNALS = ['run', 'view', 'launch', 'daemon'] as const
/** The cursor of a journal of which nothing is in the log. */
export const START: Cursor = { offset: 0, dead: null }

let frequent: readonly string[] | undefined

/** How a session ended. */
export type Outcome = Extract<Fact, { k: 'session.end' }>['outcome']

/** What some facts say of their session. */
export class Tally {
  readonly counters: Record<string, number> = {}
  start: EventContext['start'] = null
  outcome: Outcome | null = null

  add(fact: Fact): void {
    if (fact.k === 'session.start') this.start ??= fact
    if (fact.k === 'session.end') this.outcome = fact.outcome
    this.#count(fact.k, 1)
  }

  /** Facts of frequent kinds say nothing else. */
  addRun({ kinds }: FactRun): void {
    frequent ??= native().frequentKinds()
    for (const [i, kind] of frequent.entries()) if (kinds[i]) this.#count(kind, kinds[i])
  }

  join({ counters, start, outcome }: Tally): void {
    this.start ??= start
    this.outcome = outcome ?? this.outcome
    for (const [kind, count] of Object.entries(counters)) this.#count(kind, count)
  }

  #count(kind: string, count: number): void {
    this.counters[kind] = (this.counters[kind] ?? 0) + count
  }
}

/** Followers of its journals, from the cursors on. */
export class FollowedSession {
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
