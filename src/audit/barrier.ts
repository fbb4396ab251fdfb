/**
 * Egress is a barrier: before the first byte of a request leaves, everything the session recorded until then is
 * durable, in every journal of the session. `write(2)` before the effect makes one process able to do this for all.
 */
import * as fs from 'node:fs'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { type Journal, fdatasync } from './journal.ts'

/** Makes all journals of one session durable. Built once a session; concurrent callers share the flushes. */
export class Barrier {
  readonly #own: Journal
  readonly #others: readonly Follower[]

  /** `own` is written by this process; `others` are paths of journals that other processes of the session write. */
  constructor(own: Journal, others: readonly string[]) {
    this.#own = own
    this.#others = others.map((path) => new Follower(path))
  }

  /** Resolves when all records written before the call are durable. Rejects with ERR_JOURNAL_FAILED, then for ever. */
  async sync(): Promise<void> {
    const grown = this.#others.filter((other) => other.grown)
    if (grown.length === 0) await this.#own.sync()
    else await Promise.all([this.#own.sync(), ...grown.map((other) => other.sync())])
  }

  /** Closes the descriptors of the other journals; the own journal stays its owner's. */
  close(): void {
    for (const other of this.#others) other.close()
  }
}

/** A journal that another process writes; synced through a descriptor of ours. */
class Follower {
  readonly #path: string
  #fd: number | undefined
  #synced = 0
  #turn: Promise<void> | undefined
  #failure: AmbitError | undefined

  constructor(path: string) {
    this.#path = path
  }

  /** Something in it is not durable. @throws ERR_JOURNAL_FAILED when that cannot be told. */
  get grown(): boolean {
    try {
      return this.#size() > this.#synced
    } catch (error) {
      throw this.#die(error)
    }
  }

  async sync(): Promise<void> {
    try {
      const want = this.#size()
      while (this.#synced < want) {
        this.#turn ??= this.#flush().finally(() => {
          this.#turn = undefined
        })
        await this.#turn
      }
    } catch (error) {
      throw this.#die(error)
    }
  }

  close(): void {
    this.#failure ??= new AmbitError(
      'ERR_JOURNAL_FAILED',
      `could not sync ${this.#path}`,
      'the session has ended',
    )
    if (this.#fd !== undefined && !this.#turn) fs.closeSync(this.#fd)
    this.#fd = undefined
  }

  /** Bytes written so far. A journal that does not exist yet holds nothing; whoever makes it sees to its name. */
  #size(): number {
    if (this.#failure) throw this.#failure
    this.#fd ??= open(this.#path)
    if (this.#fd === undefined) return 0
    const size = native().fileSize(this.#fd)
    if (size < this.#synced) throw new Error('the journal was removed or cut while the session runs')
    return size
  }

  async #flush(): Promise<void> {
    const covered = this.#size()
    if (this.#fd !== undefined) await fdatasync(this.#fd)
    this.#synced = covered
  }

  #die(error: unknown): AmbitError {
    this.#failure ??=
      error instanceof AmbitError
        ? error
        : new AmbitError('ERR_JOURNAL_FAILED', `could not sync ${this.#path}`, messageOf(error), undefined, {
            cause: error,
          })
    return this.#failure
  }
}

function open(path: string): number | undefined {
  try {
    return fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw error
  }
}
