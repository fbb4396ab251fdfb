/**
 * The few steps by which the log touches the disk, as an interface: tests die before, within and after each of them.
 * Whatever a step returns from `sync` and `syncDir` must be true of the disk, not of the cache.
 */
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'

export interface LogFile {
  write(bytes: Uint8Array): Promise<void>
  sync(): Promise<void>
  close(): Promise<void>
}

export interface LogFiles {
  mkdir(path: string): Promise<void>
  /** Creates or empties, mode 0600. */
  create(path: string): Promise<LogFile>
  rename(from: string, to: string): Promise<void>
  remove(path: string): Promise<void>
  syncDir(path: string): Promise<void>
}

/**
 * Only syncs leave the event loop: they wait for the disk, all else for the page cache, and a hop to the thread pool and
 * back costs more than that, on a busy machine a hundred times.
 */
export const diskFiles: LogFiles = {
  mkdir: async (path) => fs.mkdirSync(path, { mode: 0o700 }),
  rename: async (from, to) => fs.renameSync(from, to),
  remove: async (path) => fs.rmSync(path, { recursive: true, force: true }),
  async create(path) {
    const fd = fs.openSync(path, 'w', 0o600)
    return {
      write: async (bytes) => fs.writeFileSync(fd, bytes),
      sync: () => fsync(fd),
      close: async () => fs.closeSync(fd),
    }
  },
  async syncDir(path) {
    const fd = fs.openSync(path, 'r')
    try {
      await fsync(fd)
    } finally {
      fs.closeSync(fd)
    }
  },
}

const fsync = promisify(fs.fsync)

/** A failed sync: what the kernel still holds may never reach the disk, so the writer must not go on. */
export class SyncFailed extends Error {}

/** Replaces files of one directory tree so that each is old or new, never half; durable when it resolves. */
export class FileWriter {
  readonly #root: string
  readonly #files: LogFiles
  readonly #known = new Set<string>()

  constructor(root: string, files: LogFiles) {
    this.#root = root
    this.#files = files
  }

  /** Empties the place of unfinished files and makes it. */
  async start(): Promise<void> {
    await this.#files.remove(join(this.#root, 'tmp'))
    await this.#ensureDir('tmp', new Set())
  }

  /**
   * Writes all of `batch` (path under the root → bytes): contents first, a few at a time so that their syncs share the
   * disk's flushes, then names, then the directories.
   */
  async put(batch: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const dirty = new Set<string>()
    for (const path of batch.keys()) await this.#ensureDir(dirname(path), dirty)
    const waiting = [...batch].map(([path, bytes], n) => ({
      path,
      bytes,
      temporary: join(this.#root, 'tmp', String(n)),
    }))
    for (let i = 0; i < waiting.length; i += AT_ONCE)
      await all(waiting.slice(i, i + AT_ONCE).map(({ temporary, bytes }) => this.#write(temporary, bytes)))
    for (const { path, temporary } of waiting) {
      await this.#files.rename(temporary, join(this.#root, path))
      dirty.add(dirname(path))
    }
    await all([...dirty].map((dir) => this.#sync(() => this.#files.syncDir(join(this.#root, dir)))))
  }

  async remove(path: string): Promise<void> {
    await this.#files.remove(join(this.#root, path))
  }

  async #write(path: string, bytes: Uint8Array): Promise<void> {
    const file = await this.#files.create(path)
    try {
      await file.write(bytes)
      await this.#sync(() => file.sync())
    } finally {
      await file.close()
    }
  }

  async #ensureDir(path: string, dirty: Set<string>): Promise<void> {
    if (path === '.' || this.#known.has(path)) return
    const parent = dirname(path)
    await this.#ensureDir(parent, dirty)
    try {
      await this.#files.mkdir(join(this.#root, path))
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') throw error
    }
    // Also when it exists: the one who made it may have died before this.
    dirty.add(parent)
    this.#known.add(path)
  }

  async #sync(sync: () => Promise<void>): Promise<void> {
    try {
      await sync()
    } catch (error) {
      throw new SyncFailed(messageOf(error), { cause: error })
    }
  }
}

/** Files written at once: each has a descriptor, and the thread pool has four threads. */
const AT_ONCE = 8

/** Waits for all, also when one fails: nothing may be under way when a failure is reported. A failed sync goes first. */
async function all(work: readonly Promise<void>[]): Promise<void> {
  const failures = (await Promise.allSettled(work)).flatMap((one) =>
    one.status === 'rejected' ? [one.reason] : [],
  )
  if (failures.length > 0) throw failures.find((reason) => reason instanceof SyncFailed) ?? failures[0]
}

/** Makes `dir` and what leads to it (0700), each name durable in its parent. */
export async function makeDir(dir: string, files: Pick<LogFiles, 'syncDir'> = diskFiles): Promise<void> {
  const first = fs.mkdirSync(dir, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  for (let made = dir; made.length >= first.length; made = dirname(made)) await files.syncDir(dirname(made))
}

/** Replaces one small file of a directory that exists; durable when it resolves. */
export async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  const file = await diskFiles.create(`${path}.new`)
  try {
    await file.write(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
  await diskFiles.rename(`${path}.new`, path)
  await diskFiles.syncDir(dirname(path))
}

/** Any failure of the disk as ERR_LOG_FAILED; coded errors as they are. */
export function logFailed(error: unknown): AmbitError {
  if (error instanceof AmbitError) return error
  const full = ['ENOSPC', 'EDQUOT'].includes(errnoOf(error) ?? '')
  const remedy = full ? 'free some space; nothing is lost, the journals hold it' : undefined
  return new AmbitError('ERR_LOG_FAILED', 'could not write the log', messageOf(error), remedy, {
    cause: error,
  })
}
