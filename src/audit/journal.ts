/**
 * The writing side of a session journal. Format: docs/architecture.md, "Journals". Its Rust twin is
 * native/shared/src/journal.rs; both are held to test/fixtures/journal.
 */
import * as fs from 'node:fs'
import { dirname } from 'node:path'
import { getSystemErrorMessage, getSystemErrorName } from 'node:util'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { native, type RecordQueue } from '../lib/native.ts'
import type { FactBody } from './fact.ts'
import { MAGIC, endOfJournal } from './journal-reader.ts'

export { readJournal } from './journal-reader.ts'

const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants

/** A session that writes more is a flood: it ends, rather than fill the user's disk. */
const MOST_BYTES = 2 ** 30

/** Of a text as bytes, and of what stands around them, at most. */
const MOST_GROWN = 3
const FRAME = 256

/**
 * An append-only journal with one writer process.
 *
 * After the first failed write or sync the journal is dead: every later call throws ERR_JOURNAL_FAILED and its owner
 * must stop. A retried fsync would lie: the kernel reports a lost page once.
 */
export class Journal {
  readonly path: string
  readonly #fd: number
  readonly #limit: number
  #written: number
  #synced = 0
  /** The name is durable, too. */
  #named = false
  #turn: Promise<void> | undefined
  #failure: AmbitError | undefined
  #closed = false
  /** Records that count as written and are not yet in the kernel, and how many bytes they are. */
  readonly #queue: RecordQueue
  #queued = 0
  readonly #mourners: ((error: AmbitError) => void)[] = []

  private constructor(path: string, fd: number, length: number, limit: number) {
    this.path = path
    this.#fd = fd
    this.#limit = limit
    this.#written = length
    this.#queue = new (native().RecordQueue)(fd)
  }

  /** Opens or creates the journal at `path` (mode 0600) and cuts an incomplete tail. The first `sync` covers its name. */
  static open(path: string, limit = MOST_BYTES): Journal {
    try {
      const fd = fs.openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
      try {
        return new Journal(path, fd, prepare(fd), limit)
      } catch (error) {
        fs.closeSync(fd)
        throw error
      }
    } catch (error) {
      throw asFailure(path, error)
    }
  }

  /** Bytes in the journal. */
  get length(): number {
    return this.#written
  }

  /** Appends one fact, stamped with both clocks. In the kernel when this returns, not yet durable. */
  append(fact: FactBody): void {
    this.queue(fact)
    this.#drain()
  }

  /**
   * Appends one fact whose effect waits for `sync`, or that tells of something past. It is in the kernel with the next
   * append or sync, at the latest when this turn of the event loop ends: one write for all that were queued.
   */
  queue(fact: FactBody): void {
    this.#alive()
    const text = JSON.stringify(fact)
    // What was taken before stays on record, whatever becomes of this one.
    if (this.#written + MOST_GROWN * text.length + FRAME > this.#limit) this.#drain()
    const size = this.#queue.add(text)
    if (this.#written + size > this.#limit) throw this.#die(new Error(`it has reached ${this.#limit} bytes`))
    if (this.#queued === 0) setImmediate(this.#drainLater)
    this.#queued += size
    this.#written += size
  }

  /** Makes everything appended before this call durable. Concurrent callers share one fdatasync. */
  async sync(): Promise<void> {
    const want = this.#written
    this.#alive()
    while (this.#synced < want) {
      // Closed meanwhile, perhaps: the descriptor may be another file's by now.
      this.#alive()
      if (this.#turn) await this.#turn
      else await this.#begin()
    }
    this.#alive()
  }

  /** Calls back once when the journal dies, at once if it has. Its owner must stop: nothing more is recorded. */
  onFailure(callback: (error: AmbitError) => void): void {
    if (this.#failure) callback(this.#failure)
    else this.#mourners.push(callback)
  }

  /** Closes the file; `sync` first, for this promises no durability. */
  close(): void {
    if (this.#closed) return
    this.#drainLater()
    this.#closed = true
    if (!this.#turn) return fs.closeSync(this.#fd)
    void this.#turn.catch(() => undefined).finally(() => fs.closeSync(this.#fd))
  }

  readonly #drainLater = (): void => {
    try {
      if (!this.#closed) this.#drain()
    } catch {
      // The journal is dead now, and its owner has been told.
    }
  }

  /** Hands what was queued to the kernel. */
  #drain(): void {
    if (this.#queued === 0) return
    this.#alive()
    const failed = this.#queue.write(this.#written - this.#queued)
    this.#queued = 0
    if (failed !== 0) throw this.#die(systemError(failed))
  }

  /** Whoever waits for a turn that another one began comes after this. */
  async #begin(): Promise<void> {
    const turn = this.#flush()
    this.#turn = turn
    try {
      await turn
    } finally {
      this.#turn = undefined
    }
  }

  async #flush(): Promise<void> {
    this.#drain()
    const covered = this.#written
    try {
      if (this.#named) await fdatasync(this.#fd)
      else await this.#flushNamed()
    } catch (error) {
      throw this.#die(error)
    }
    this.#synced = covered
  }

  async #flushNamed(): Promise<void> {
    // Both to their end, whatever becomes of one: the descriptor may be closed after this.
    const both = await Promise.allSettled([fdatasync(this.#fd), syncDirectory(dirname(this.path))])
    for (const done of both) if (done.status === 'rejected') throw done.reason
    this.#named = true
  }

  #die(error: unknown): AmbitError {
    if (this.#failure) return this.#failure
    this.#failure = asFailure(this.path, error)
    for (const callback of this.#mourners) callback(this.#failure)
    return this.#failure
  }

  #alive(): void {
    if (this.#failure) throw this.#failure
    if (this.#closed) throw new TypeError('journal is closed')
  }
}

/**
 * Makes an empty journal for another process to write, so that the first sync of one beside it covers its name, too.
 * Throws ERR_JOURNAL_FAILED.
 */
export function layJournal(path: string): void {
  try {
    fs.writeFileSync(path, MAGIC, { mode: 0o600, flag: 'wx' })
  } catch (error) {
    throw asFailure(path, error)
  }
}

/** fdatasync off the event loop, on any descriptor of the file: durability belongs to the file, not to the fd. */
export function fdatasync(fd: number): Promise<void> {
  return new Promise((resolve, reject) => fs.fdatasync(fd, (error) => (error ? reject(error) : resolve())))
}

function prepare(fd: number): number {
  if (!fs.fstatSync(fd).isFile()) throw new Error('not a regular file')
  let end = endOfJournal(fd)
  fs.ftruncateSync(fd, end)
  if (end === 0) {
    writeFully(fd, MAGIC, 0)
    end = MAGIC.length
  }
  return end
}

async function syncDirectory(path: string): Promise<void> {
  const dir = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
  try {
    await new Promise<void>((resolve, reject) =>
      fs.fsync(dir, (error) => (error ? reject(error) : resolve())),
    )
  } finally {
    fs.closeSync(dir)
  }
}

function writeFully(fd: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; )
    done += fs.writeSync(fd, bytes, done, bytes.length - done, position + done)
}

/** What the kernel answered, as Node's own file functions tell it. */
function systemError(number: number): Error {
  const code = getSystemErrorName(-number)
  return Object.assign(new Error(`${code}: ${getSystemErrorMessage(-number)}, write`), { code })
}

function asFailure(path: string, error: unknown): AmbitError {
  if (error instanceof AmbitError) return error
  const full = ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '')
  return new AmbitError(
    'ERR_JOURNAL_FAILED',
    `could not write the journal ${path}`,
    messageOf(error),
    full ? 'free some space and start again' : undefined,
    { cause: error },
  )
}
