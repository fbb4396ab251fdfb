/**
 * The device's log: appends entries to a C2SP tlog-tiles directory and signs checkpoints.
 *
 * Order of an append, each step durable before the next: tiles, the name of `state.json` (the commit point), and later
 * that of the checkpoint. Tiles beyond the committed size may exist after a crash; nothing refers to them and the next append
 * replaces them. Tiles below it are never written again.
 */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { AmbitError, errnoOf } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { type Checkpoint, openCheckpoint, signCheckpoint } from './checkpoint.ts'
import type { EntryBatch } from './entry-batch.ts'
import { EMPTY_EDGE, type Edge, edgeRoot, extendEdge } from './edge.ts'
import {
  FileWriter,
  type LogFiles,
  type Prepared,
  SyncFailed,
  diskFiles,
  logFailed,
  makeDir,
} from './log-files.ts'
import { ANEW, type Cursors, type LogState, readState } from './log-state.ts'
import { type Signer, parseVerifierKey } from './note.ts'
import {
  frameEntries,
  hashReader,
  missingTile,
  partialTiles,
  readBundle,
  readHashes,
  tilePath,
} from './tiles.ts'
import { type Hash, equal, leafHash, treeRoot } from './tlog.ts'
import { strayTiles } from './stray-tiles.ts'

export interface LogOptions {
  readonly dir: string
  readonly signer: Signer
  /** flock(2) on an open descriptor: freed by death, so that no lock outlives its holder. */
  readonly lock?: (fd: number) => boolean
  readonly files?: LogFiles
}

export interface Head {
  readonly size: number
  readonly root: Hash
}

/** The log, open for writing: one in the world for its directory, by lock. */
export class Log {
  readonly dir: string
  readonly #signer: Signer
  readonly #writer: FileWriter
  readonly #lock: number
  #edge: Edge
  #cursors: Cursors
  /** Size of the published checkpoint; -1 before the first. */
  #published = -1
  /** Sizes whose partial tiles may lie on disk, oldest first. */
  #sizes: number[]
  /** A checkpoint of the committed size that only lacks its name. */
  #signed: Prepared | null = null
  #failure: AmbitError | undefined
  #busy = false

  private constructor(options: LogOptions, lock: number, edge: Edge, cursors: Cursors, published: number) {
    this.dir = options.dir
    this.#signer = options.signer
    this.#writer = new FileWriter(options.dir, options.files ?? diskFiles)
    this.#lock = lock
    this.#edge = edge
    this.#cursors = cursors
    this.#published = published
    this.#sizes = [edge.size]
  }

  /**
   * Opens the log in `dir` for writing, or begins one. Throws ERR_LOG_LOCKED (another sequencer has it),
   * ERR_LOG_INCONSISTENT (what lies there is not what was signed), ERR_LOG_FAILED (the disk).
   */
  static async open(options: LogOptions): Promise<Log> {
    await makeDir(options.dir)
    const lock = takeLock(options)
    try {
      const state = readState(options.dir)
      const log = state ? resume(options, lock, state, Log.#make) : begin(options, lock, Log.#make)
      await log.#guard(async () => {
        await log.#writer.start()
        for (const path of strayTiles(options.dir, log.size)) await log.#writer.remove(path)
        // Also when it was there: its last writer may have died between the rename and the sync.
        await log.#writer.put(log.#stateOf(log.#edge, log.#cursors))
      })
      await log.publish()
      return log
    } catch (error) {
      fs.closeSync(lock)
      throw error
    }
  }

  static #make: Make = (...args) => new Log(...args)

  get size(): number {
    return this.#edge.size
  }

  get cursors(): Cursors {
    return this.#cursors
  }

  get head(): Head {
    return { size: this.#edge.size, root: edgeRoot(this.#edge) }
  }

  /**
   * Appends `entries`, which begin at `size`, and sets `cursors`, both or neither. When it rejects with
   * ERR_LOG_FAILED nothing is committed; it may be called again unless a sync failed, which ends this Log. `sign`: the
   * checkpoint is made with it, so that `publish`, called next, has only to name it.
   */
  async appendBatch(
    entries: EntryBatch,
    cursors: Cursors,
    { sign = false }: { readonly sign?: boolean } = {},
  ): Promise<void> {
    await this.#guard(async () => {
      this.#signed = null
      const { edge, files } = extendEdge(this.#edge, entries)
      const prepared = await this.#writer.prepare(
        files,
        new Map([...this.#stateOf(edge, cursors), ...(sign ? this.#checkpointOf(edge) : [])]),
      )
      await prepared.name(['state.json'])
      this.#edge = edge
      this.#cursors = cursors
      if (sign) this.#signed = prepared
      if (this.#sizes.at(-1) !== edge.size) this.#sizes.push(edge.size)
    })
  }

  /** Signs a checkpoint of all that is committed, and removes partial tiles that no recent checkpoint needs. */
  async publish(): Promise<void> {
    if (this.#published === this.size && !this.#failure) return
    await this.#guard(async () => {
      const signed = this.#signed ?? (await this.#writer.prepare(new Map(), this.#checkpointOf(this.#edge)))
      await signed.name(['checkpoint'])
      this.#signed = null
      const before = this.#published
      this.#published = this.size
      await this.#dropPartials(before)
    })
  }

  /** Throws ERR_LOG_FAILED where the directory would take no write. Writes nothing itself. */
  requireWritable(): void {
    try {
      for (const name of ['', 'tmp'])
        fs.accessSync(join(this.dir, name), fs.constants.W_OK | fs.constants.X_OK)
    } catch (error) {
      throw logFailed(error)
    }
  }

  /** Frees the lock. */
  close(): void {
    if (this.#lock >= 0) fs.closeSync(this.#lock)
    this.#failure ??= new AmbitError('ERR_LOG_FAILED', 'could not write the log', 'it is closed')
  }

  #stateOf(edge: Edge, cursors: Cursors): Map<string, Uint8Array> {
    const root = Buffer.from(edgeRoot(edge)).toString('base64')
    const state: LogState = { v: 1, origin: this.#signer.name, size: edge.size, root, cursors }
    return new Map([['state.json', Buffer.from(JSON.stringify(state))]])
  }

  #checkpointOf(edge: Edge): Map<string, Uint8Array> {
    return new Map([['checkpoint', Buffer.from(signCheckpoint(edge.size, edgeRoot(edge), this.#signer))]])
  }

  /** Readers may still hold the checkpoint before this one, so its partial tiles stay for now. */
  async #dropPartials(before: number): Promise<void> {
    const keep = [before, this.size].filter((size) => size >= 0)
    const kept = new Set(keep.flatMap(partialPaths))
    const gone = this.#sizes.filter((size) => !keep.includes(size)).flatMap(partialPaths)
    for (const path of new Set(gone)) if (!kept.has(path)) await this.#writer.remove(path)
    this.#sizes = [...new Set(keep)]
  }

  /** One change at a time; a failed sync is the end of this Log: only a new open, which verifies, may go on. */
  async #guard(change: () => Promise<void>): Promise<void> {
    if (this.#failure) throw this.#failure
    if (this.#busy) throw new TypeError('the log takes one change at a time')
    this.#busy = true
    try {
      await change()
    } catch (error) {
      const failure = logFailed(error)
      if (error instanceof SyncFailed) this.#failure = failure
      throw failure
    } finally {
      this.#busy = false
    }
  }

  /** Why nothing more can be appended, or null. */
  get failure(): AmbitError | null {
    return this.#failure ?? null
  }
}

type Make = (options: LogOptions, lock: number, edge: Edge, cursors: Cursors, published: number) => Log

function takeLock(options: LogOptions): number {
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants
  const fd = fs.openSync(join(options.dir, 'lock'), O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
  const lock = options.lock ?? ((file: number) => native().tryLock(file))
  if (lock(fd)) return fd
  fs.closeSync(fd)
  throw new AmbitError(
    'ERR_LOG_LOCKED',
    `could not open the log ${options.dir}`,
    'another process writes it',
    'end the other ambitd, or set AMBIT_HOME to a directory of its own',
  )
}

/** A log begins only where nothing of one lies: a lost state.json is a loss to report, not a reason to start over. */
function begin(options: LogOptions, lock: number, make: Make): Log {
  for (const name of ['checkpoint', 'tile']) {
    if (fs.existsSync(join(options.dir, name))) throw inconsistent(`there is a ${name} but no state.json`)
  }
  return make(options, lock, EMPTY_EDGE, {}, -1)
}

function resume(options: LogOptions, lock: number, state: LogState, make: Make): Log {
  const { dir, signer } = options
  if (state.origin !== signer.name) throw inconsistent('its key is not the key of this device')
  const edge = readEdge(dir, state.size)
  if (Buffer.from(edgeRoot(edge)).toString('base64') !== state.root)
    throw inconsistent('its tiles do not give the root in state.json')
  return make(options, lock, edge, state.cursors, checkedSize(dir, state, signer))
}

/** Size of the checkpoint on disk, which must be ours and a past of what is committed. */
function checkedSize(dir: string, state: LogState, signer: Signer): number {
  let note: string
  try {
    note = fs.readFileSync(join(dir, 'checkpoint'), 'utf8')
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error
    // The first checkpoint, of size 0, is signed before the first append.
    if (state.size > 0) throw inconsistent('its checkpoint is missing')
    return -1
  }
  const { size, root } = signedCheckpoint(note, signer)
  if (size > state.size)
    throw inconsistent(`its checkpoint covers ${size} entries but only ${state.size} are committed`)
  if (!equal(treeRoot(size, hashReader(dir, size)), root))
    throw inconsistent('its tiles do not give the root of its checkpoint')
  return size
}

function signedCheckpoint(note: string, signer: Signer): Checkpoint {
  try {
    return openCheckpoint(note, parseVerifierKey(signer.vkey))
  } catch (error) {
    if (error instanceof AmbitError) throw inconsistent(`its checkpoint: ${error.why}`)
    throw error
  }
}

function readEdge(dir: string, size: number): Edge {
  const tiles: Uint8Array[] = []
  let entries: Buffer[] = []
  let leaves: Hash[] = []
  for (const { level, index, width } of partialTiles(size)) {
    if (level === 'entries') entries = readEntries(dir, index, width)
    else {
      const hashes = readHashes(dir, level, index, width)
      if (level === 0) leaves = hashes
      tiles[level] = Buffer.concat(hashes)
    }
  }
  const bad = entries.findIndex((entry, i) => !equal(leafHash(entry), leaves[i] ?? Buffer.alloc(0)))
  if (bad >= 0) throw inconsistent(`entry ${size - entries.length + bad} is not what was hashed`)
  return {
    size,
    bundle: frameEntries(entries),
    tiles: Array.from(tiles, (hashes) => hashes ?? EMPTY_EDGE.bundle),
  }
}

function readEntries(dir: string, index: number, width: number): Buffer[] {
  const { entries, bad } = readBundle(dir, index, width)
  if (bad !== null) throw missingTile(tilePath('entries', index, width), `entry ${bad} of it is not whole`)
  return entries
}

const partialPaths = (size: number): string[] =>
  partialTiles(size).map(({ level, index, width }) => tilePath(level, index, width))

const inconsistent = (why: string): AmbitError =>
  new AmbitError('ERR_LOG_INCONSISTENT', 'the log was refused', why, ANEW)
