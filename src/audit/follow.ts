/** Follows one journal of one session with a cursor, while another process writes it. */
import * as fs from 'node:fs'
import { errnoOf, messageOf } from '../lib/errors.ts'
import type { Fact } from './fact.ts'
import { type Clocks, type JournalEnd, RecordReader, openJournal, understand } from './journal-reader.ts'
import type { Cursor } from './log-state.ts'

/** A fact, where it lies, and the cursor that has passed it. */
export interface Followed {
  readonly fact: Fact
  readonly offset: number
  readonly after: Cursor
}

/** Bytes of a journal from a record's begin on. */
export interface Ahead {
  readonly bytes: Buffer
  readonly offset: number
}

/** How long a wrong record may be a write half done. */
const DOUBT_MS = 200

/** Of the reader or its disk at the moment: says nothing of the journal, which is there. */
const PASSING = ['EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'EINTR']

/** A cursor on one journal file, which may not exist yet. */
export class Follower {
  readonly name: string
  readonly #path: string
  #cursor: Cursor
  #fd: number | undefined
  /** Where and since when a wrong record lies: the first look may have met a write half done. */
  #suspect = { offset: -1, since: 0 }
  #clocks: Clocks = { t: 0, m: 0 }
  #records: RecordReader | null = null
  #passed: Cursor
  /** A loss that was clear before anything was read. */
  #gap: Followed | null = null
  #final = false

  constructor(path: string, name: string, cursor: Cursor) {
    this.#path = path
    this.name = name
    this.#cursor = cursor
    this.#passed = cursor
  }

  get cursor(): Cursor {
    return this.#cursor
  }

  /** Sets the cursor once the log has committed it. */
  advance(cursor: Cursor): void {
    this.#cursor = cursor
  }

  /**
   * Begins to read what was written beyond the cursor. `final`: nobody writes any more, so an unfinished record is a
   * loss. A system error that may pass comes as it is: whoever asks asks again.
   */
  begin(final: boolean): void {
    this.#passed = this.#cursor
    this.#records = null
    this.#gap = null
    this.#final = final
    if (this.#cursor.dead !== null) return
    const opened = this.#open()
    const { offset } = this.#cursor
    if (typeof opened === 'string') this.#gap = this.#lost(opened)
    else if (this.#fd === undefined) return
    else if (opened > offset) this.#records = new RecordReader(this.#fd, offset)
    // Mostly there is nothing new, and then nothing need be read.
    else this.#gap = this.#gapAt({ offset, why: 'end' })
  }

  /** The cursor behind what was read. */
  get passed(): Cursor {
    return this.#passed
  }

  /**
   * The next fact, which it passes; null where there is none yet. A loss comes as one `gap` fact, after which the
   * journal is dead: nothing behind a gap can be trusted to follow it.
   */
  next(): Followed | null {
    const record = this.#read((records) => records.next())
    if (!record || 'why' in record) {
      const gap = record ? this.#gapAt(record) : this.#gap
      this.#records = null
      this.#gap = null
      if (gap) this.#passed = gap.after
      return gap
    }
    const fact = understand(record, this.name, this.#clocks)
    this.#pass(record.next, fact)
    return { fact, offset: record.offset, after: this.#passed }
  }

  /** The bytes at hand of the records that come next and where they lie; null where the next one is not whole. */
  ahead(): Ahead | null {
    const bytes = this.#read((records) => records.ahead())
    if (!this.#records || !Buffer.isBuffer(bytes) || bytes.length === 0) return null
    return { bytes, offset: this.#records.offset }
  }

  /** Where the disk does not give the journal back, it ends: it must not hold up the others. */
  #read<T>(read: (records: RecordReader) => T): T | JournalEnd | null {
    if (!this.#records) return null
    try {
      return read(this.#records)
    } catch (error) {
      const errno = errnoOf(error)
      if (errno === undefined || PASSING.includes(errno)) throw error
      return { offset: this.#passed.offset, why: 'unreadable' }
    }
  }

  /** Passes `bytes` of `ahead`, whose last fact has `clocks`. */
  skip(bytes: number, clocks: Clocks): void {
    this.#records?.pass(bytes)
    this.#pass(this.#records?.offset ?? 0, clocks)
  }

  #pass(offset: number, { t, m }: Clocks): void {
    this.#passed = { offset, dead: null }
    this.#clocks = { t, m }
  }

  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd)
    this.#fd = undefined
  }

  /** Bytes of the journal, or why it cannot be read as far as it goes. One not yet begun has none, which is no loss. */
  #open(): number | string {
    const { offset } = this.#cursor
    try {
      this.#fd ??= openJournal(this.#path)
      const size = fs.fstatSync(this.#fd).size
      return size < offset ? `cut to ${size} bytes after ${offset} were sequenced` : size
    } catch (error) {
      const errno = errnoOf(error)
      if (errno !== undefined && PASSING.includes(errno)) throw error
      if (errno !== 'ENOENT') return messageOf(error)
      return offset > 0 ? 'vanished' : 0
    }
  }

  #gapAt(end: JournalEnd): Followed | null {
    const loss = this.#lossAt(end)
    return loss === null ? null : this.#lost(loss, this.#passed.offset)
  }

  #lossAt({ offset, why }: JournalEnd): string | null {
    const final = this.#final
    const wrong = why === 'corrupt' || why === 'foreign' || why === 'unreadable'
    if (!wrong) this.#suspect = { offset: -1, since: 0 }
    else if (this.#suspect.offset !== offset) this.#suspect = { offset, since: performance.now() }
    const known = wrong && performance.now() - this.#suspect.since >= DOUBT_MS
    if (why === 'foreign') return final || known ? 'not a journal' : null
    if (why === 'corrupt') return final || known ? `corrupt at byte ${offset}` : null
    if (why === 'unreadable') return final || known ? `cannot be read at byte ${offset}` : null
    if (why === 'torn' && final) return `unfinished record at byte ${offset}`
    // Read through our descriptor to its end; the name is gone, so nobody else will ever read it.
    const gone = this.#fd !== undefined && fs.fstatSync(this.#fd).nlink === 0
    return gone ? `removed after byte ${offset}` : null
  }

  #lost(reason: string, offset = this.#cursor.offset): Followed {
    const fact: Fact = { k: 'gap', journal: this.name, reason, ...this.#clocks }
    return { fact: { ...fact, t: fact.t || Date.now() }, offset, after: { offset, dead: reason } }
  }
}
