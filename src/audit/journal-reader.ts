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

/** One whole record: `[offset, next)` of the file. */
interface RawRecord {
  readonly offset: number
  readonly next: number
  readonly payload: Buffer
}

/** A record that is whole but says nothing this version understands reads as a `gap` fact: never skipped in silence. */
export interface JournalRecord extends RawRecord {
  readonly fact: Fact
}

/**
 * Why reading stopped at `offset`. `end`: nothing more; `torn`: a record that is not all there (yet);
 * `corrupt`: bytes that no writer of ours left; `foreign`: not a journal.
 */
export interface JournalEnd {
  readonly offset: number
  readonly why: 'end' | 'torn' | 'corrupt' | 'foreign'
}

/** Reads whole records of an open journal from byte `from` (0 or the `next` of a record). */
function* scanJournal(fd: number, from = 0): Generator<RawRecord, JournalEnd> {
  const source = new Window(fd)
  if (from < MAGIC.length) {
    const head = source.take(0, MAGIC.length)
    if (!head.equals(MAGIC.subarray(0, head.length))) return { offset: 0, why: 'foreign' }
    if (head.length < MAGIC.length) return { offset: 0, why: head.length ? 'torn' : 'end' }
  }
  for (let at = Math.max(from, MAGIC.length); ; ) {
    const head = source.take(at, HEAD)
    if (head.length < HEAD) return { offset: at, why: head.length ? 'torn' : 'end' }
    const length = head.readUInt32LE(0)
    const sum = head.readUInt32LE(4)
    if (length === 0 || length > MAX_PAYLOAD) return { offset: at, why: 'corrupt' }
    const payload = source.take(at + HEAD, length)
    if (payload.length < length) return { offset: at, why: 'torn' }
    if (crc32(payload) !== sum) return { offset: at, why: 'corrupt' }
    const next = at + HEAD + length
    yield { offset: at, next, payload }
    at = next
  }
}

/** Length of the longest valid prefix; 0 for an empty or torn header. Throws ERR_JOURNAL_CORRUPT for another file. */
export function endOfJournal(fd: number): number {
  const scan = scanJournal(fd)
  for (let step = scan.next(); ; step = scan.next()) {
    if (!step.done) continue
    if (step.value.why !== 'foreign') return step.value.offset
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
  const scan = scanJournal(fd, from)
  let clocks = { t: 0, m: 0 }
  for (let step = scan.next(); ; step = scan.next()) {
    if (step.done) return step.value
    const fact = understand(step.value, journal, clocks)
    clocks = { t: fact.t, m: fact.m }
    yield { ...step.value, fact }
  }
}

function understand(record: RawRecord, journal: string, clocks: { t: number; m: number }): Fact {
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
  #bytes: Buffer = Buffer.alloc(0)

  constructor(fd: number) {
    this.#fd = fd
  }

  /** Up to `length` bytes at `at`; fewer only at the end of the file. Valid beyond the next call. */
  take(at: number, length: number): Buffer {
    const inside = at >= this.#start && at + length <= this.#start + this.#bytes.length
    if (!inside) this.#fill(at, Math.max(length, CHUNK))
    return this.#bytes.subarray(at - this.#start, at - this.#start + length)
  }

  #fill(at: number, length: number): void {
    const bytes = Buffer.allocUnsafe(length)
    let got = 0
    for (let n = 1; got < length && n > 0; got += n)
      n = fs.readSync(this.#fd, bytes, got, length - got, at + got)
    this.#start = at
    this.#bytes = bytes.subarray(0, got)
  }
}
