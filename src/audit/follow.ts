/** Follows one journal of one session with a cursor, while another process writes it. */
import * as fs from 'node:fs'
import { errnoOf, messageOf } from '../lib/errors.ts'
import type { Fact } from './fact.ts'
import { type JournalEnd, openJournal, readFacts } from './journal-reader.ts'
import type { Cursor } from './log-state.ts'

/** A fact, where it lies, and the cursor that has passed it. */
export interface Followed {
  readonly fact: Fact
  readonly offset: number
  readonly after: Cursor
}

/** How long a wrong record may be a write half done. */
const DOUBT_MS = 200

/** A cursor on one journal file, which may not exist yet. */
export class Follower {
  readonly name: string
  readonly #path: string
  #cursor: Cursor
  #fd: number | undefined
  /** Where and since when a wrong record lies: the first look may have met a write half done. */
  #suspect = { offset: -1, since: 0 }
  #clocks = { t: 0, m: 0 }

  constructor(path: string, name: string, cursor: Cursor) {
    this.#path = path
    this.name = name
    this.#cursor = cursor
  }

  get cursor(): Cursor {
    return this.#cursor
  }

  /** Sets the cursor once the log has committed it. */
  advance(cursor: Cursor): void {
    this.#cursor = cursor
  }

  /**
   * What was written beyond the cursor. `final`: nobody writes any more, so an unfinished record is a loss. A loss
   * comes as one `gap` fact, after which the journal is dead: nothing behind a gap can be trusted to follow it.
   */
  *read(final: boolean): Generator<Followed> {
    if (this.#cursor.dead !== null) return
    const opened = this.#open()
    if (opened !== null) return yield this.#gap(opened)
    if (this.#fd === undefined) return
    let after = this.#cursor
    const facts = readFacts(this.#fd, this.name, after.offset)
    for (let step = facts.next(); ; step = facts.next()) {
      if (step.done) {
        const loss = this.#lossAt(step.value, final)
        if (loss !== null) yield this.#gap(loss, after.offset)
        return
      }
      const { fact, offset, next } = step.value
      this.#clocks = { t: fact.t, m: fact.m }
      after = { offset: next, dead: null }
      yield { fact, offset, after }
    }
  }

  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd)
    this.#fd = undefined
  }

  /** Null when the journal can be read as far as it goes, or why it cannot. A journal not yet begun is no loss. */
  #open(): string | null {
    try {
      this.#fd ??= openJournal(this.#path)
      const size = fs.fstatSync(this.#fd).size
      return size < this.#cursor.offset
        ? `cut to ${size} bytes after ${this.#cursor.offset} were sequenced`
        : null
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') return messageOf(error)
      return this.#cursor.offset > 0 ? 'vanished' : null
    }
  }

  #lossAt({ offset, why }: JournalEnd, final: boolean): string | null {
    const wrong = why === 'corrupt' || why === 'foreign'
    if (!wrong) this.#suspect = { offset: -1, since: 0 }
    else if (this.#suspect.offset !== offset) this.#suspect = { offset, since: performance.now() }
    const known = wrong && performance.now() - this.#suspect.since >= DOUBT_MS
    if (why === 'foreign') return final || known ? 'not a journal' : null
    if (why === 'corrupt') return final || known ? `corrupt at byte ${offset}` : null
    if (why === 'torn' && final) return `unfinished record at byte ${offset}`
    // Read through our descriptor to its end; the name is gone, so nobody else will ever read it.
    const gone = this.#fd !== undefined && fs.fstatSync(this.#fd).nlink === 0
    return gone ? `removed after byte ${offset}` : null
  }

  #gap(reason: string, offset = this.#cursor.offset): Followed {
    const fact: Fact = { k: 'gap', journal: this.name, reason, ...this.#clocks }
    return { fact: { ...fact, t: fact.t || Date.now() }, offset, after: { offset, dead: reason } }
  }
}
