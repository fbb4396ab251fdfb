/** The reading side of session journals: stops at the first incomplete or wrong record, never guesses beyond it. */
import * as fs from 'node:fs'
import { basename } from 'node:path'
import { crc32 } from 'node:zlib'
import { AmbitError, messageOf } from '../lib/errors.ts'
import type { Fact } from './fact.ts'
import { parseFact } from './parse-fact.ts'

/** First bytes of every journal. */
export const MAGIC: Uint8Array = Buffer.from('AMBITJ1\n')
/** Longest payload, bytes. */
export const MAX_PAYLOAD = 1 << 20
const HEAD = 8
const CHUNK = 1 << 18
const EMPTY = Buffer.alloc(0)

/** One whole record: `[offset, next)` of the file. */
export interface RawRecord {
  readonly offset: number
  readonly next: number
  /** Valid until its reader goes on. */
  readonly payload: Buffer
}

/** A record that is whole but says nothing this version understands reads as a `gap` fact: never skipped in silence. */
export interface JournalRecord extends Omit<RawRecord, 'payload'> {
  readonly fact: Fact
}

/**
 * Why reading stopped at `offset`. `end`: nothing more; `torn`: a record that is not all there (yet);
 * `corrupt`: bytes that no writer of ours left; `foreign`: not a journal.
 */
export interface JournalEnd {
  readonly offset: number
  readonly why: 'end' | 'torn' | 'corrupt' | 'foreign' | 'unreadable'
}

/** Reads whole records of an open journal, one after the other. */
export class RecordReader {
  readonly #source: Window
  #at: number

  /** `from`: 0 or the `next` of a record. */
  constructor(fd: number, from = 0) {
    this.#source = new Window(fd)
    this.#at = from
  }

  /** Where the next record begins. */
  get offset(): number {
    return this.#at
  }

  /** The next record, which it passes, or why there is none. */
  next(): RawRecord | JournalEnd {
    const wrong = this.#passMagic()
    if (wrong) return wrong
    const offset = this.#at
    const head = this.#source.take(offset, HEAD)
    if (head.length < HEAD) return { offset, why: head.length ? 'torn' : 'end' }
    const length = head.readUInt32LE(0)
    const sum = head.readUInt32LE(4)
    if (length === 0 || length > MAX_PAYLOAD) return { offset, why: 'corrupt' }
    const payload = this.#source.take(offset + HEAD, length)
    if (payload.length < length) return { offset, why: 'torn' }
    if (crc32(payload) !== sum) return { offset, why: 'corrupt' }
    this.#at = offset + HEAD + length
    return { offset, next: this.#at, payload }
  }

  /** What is at hand from here on: the next record whole, if it is, and others; nothing where there is none. */
  ahead(): Buffer {
    if (this.#passMagic()) return EMPTY
    const head = this.#source.take(this.#at, HEAD)
    const length = head.length < HEAD ? 0 : head.readUInt32LE(0)
    if (length === 0 || length > MAX_PAYLOAD) return EMPTY
    const { length: whole } = this.#source.take(this.#at, HEAD + length)
    return whole < HEAD + length ? EMPTY : this.#source.from(this.#at)
  }

  /** Passes `bytes` of what is at hand: whole records that its caller has read. */
  pass(bytes: number): void {
    this.#at += bytes
  }

  #passMagic(): JournalEnd | null {
    if (this.#at >= MAGIC.length) return null
    const head = this.#source.take(0, MAGIC.length)
    if (!head.equals(MAGIC.subarray(0, head.length))) return { offset: 0, why: 'foreign' }
    if (head.length < MAGIC.length) return { offset: 0, why: head.length ? 'torn' : 'end' }
    this.#at = MAGIC.length
    return null
  }
}

/** Length of the longest valid prefix; 0 for an empty or torn header. Throws ERR_JOURNAL_CORRUPT for another file. */
export function endOfJournal(fd: number): number {
  const records = new RecordReader(fd)
  for (;;) {
    const step = records.next()
    if (!('why' in step)) continue
    if (step.why !== 'foreign') return step.offset
    throw new AmbitError(
      'ERR_JOURNAL_CORRUPT',
      'could not open a journal',
      'the file is not an Ambit journal',
    )
  }
}

/**
 * Facts of the journal at `path` from byte `from`. System errors (ENOENT: nobody wrote yet) come as they are.
 * The generator's return value says why it stopped.
 */
export function* readJournal(path: string, from = 0): Generator<JournalRecord, JournalEnd> {
  const fd = openJournal(path)
  try {
    return yield* readFacts(fd, basename(path, '.wal'), from)
  } finally {
    fs.closeSync(fd)
  }
}

/** The same of an open journal; `journal` is its name in `gap` facts. */
export function* readFacts(fd: number, journal: string, from = 0): Generator<JournalRecord, JournalEnd> {
  const records = new RecordReader(fd, from)
  let clocks: Clocks = { t: 0, m: 0 }
  for (;;) {
    const record = records.next()
    if ('why' in record) return record
    const fact = understand(record, journal, clocks)
    clocks = { t: fact.t, m: fact.m }
    const { offset, next } = record
    yield { offset, next, fact }
  }
}

/** When a fact was recorded, by both clocks. */
export interface Clocks {
  readonly t: number
  readonly m: number
}

/** The fact of `record`; a `gap` with `clocks`, those of the fact before it, where it says nothing that we know. */
export function understand(record: RawRecord, journal: string, clocks: Clocks): Fact {
  try {
    return parseFact(record.payload)
  } catch (error) {
    return { k: 'gap', journal, reason: `record at byte ${record.offset}: ${messageOf(error)}`, ...clocks }
  }
}

/** Opens for reading; never through a symbolic link. */
export const openJournal = (path: string): number =>
  fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)

/** A buffered window on a file; holds one chunk, so that journals of any size stream. */
class Window {
  readonly #fd: number
  #start = 0
  #chunk = EMPTY
  #bytes = EMPTY

  constructor(fd: number) {
    this.#fd = fd
  }

  /** Up to `length` bytes at `at`; fewer only at the end of the file. Valid until the next call. */
  take(at: number, length: number): Buffer {
    const inside = at >= this.#start && at + length <= this.#start + this.#bytes.length
    if (!inside) this.#fill(at, Math.max(length, CHUNK))
    return this.#bytes.subarray(at - this.#start, at - this.#start + length)
  }

  /** What it holds from `at`, which it has, to its end. Valid until the next call of `take`. */
  from(at: number): Buffer {
    return this.#bytes.subarray(at - this.#start)
  }

  #fill(at: number, length: number): void {
    if (this.#chunk.length < length) this.#chunk = Buffer.allocUnsafe(length)
    let got = 0
    for (let n = 1; got < length && n > 0; got += n)
      n = fs.readSync(this.#fd, this.#chunk, got, length - got, at + got)
    this.#start = at
    this.#bytes = this.#chunk.subarray(0, got)
  }
}
