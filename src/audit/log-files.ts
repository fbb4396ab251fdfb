/**
 * The few steps by which the log touches the disk, as an interface: tests die before, within and after each of them.
 * Whatever a step returns from `sync` and `syncDir` must be true of the disk, not of the cache.
 */
import * as fs from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { makeDir as makeNames } from '../lib/make-dir.ts'

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

/** New contents that are durable and wait for their names. */
export interface Prepared {
  /** Gives `paths` what was prepared for them; durable when it resolves. */
  name(paths: Iterable<string>): Promise<void>
}

/** Bytes by path under the writer's root. */
export type Contents = ReadonlyMap<string, Uint8Array>

const NOTHING: Contents = new Map()

/** Writes files of one directory tree; each that is replaced is old or new, never half. */
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

  /** Replaces the files of `batch`; durable when it resolves. */
  async put(batch: Contents): Promise<void> {
    const prepared = await this.prepare(NOTHING, batch)
    await prepared.name(batch.keys())
  }

  /**
   * Makes `fresh`, which nothing refers to yet, durable in its place, and `replacing` beside the places that it will
   * take: all syncs at once, contents and directories, so that they share the disk's flushes.
   */
  async prepare(fresh: Contents, replacing: Contents): Promise<Prepared> {
    const dirty = new Set<string>()
    for (const path of fresh.keys()) {
      await this.#ensureDir(dirname(path), dirty)
      dirty.add(dirname(path))
    }
    const temporary = new Map(
      [...replacing.keys()].map((path, n) => [path, join(this.#root, 'tmp', String(n))]),
    )
    await this.#write(
      [
        ...[...fresh].map(([path, bytes]) => ({ place: join(this.#root, path), bytes })),
        ...[...replacing].map(([path, bytes]) => ({ place: temporary.get(path) ?? path, bytes })),
      ],
      dirty,
    )
    return { name: (paths) => this.#name([...paths].map((path) => [path, temporary.get(path) ?? path])) }
  }

  async #name(places: readonly (readonly [path: string, temporary: string])[]): Promise<void> {
    for (const [path, temporary] of places) await this.#files.rename(temporary, join(this.#root, path))
    await this.#syncDirs(new Set(places.map(([path]) => dirname(path))))
  }

  async remove(path: string): Promise<void> {
    await this.#files.remove(join(this.#root, path))
  }

  /** Contents a few at a time, for each has a descriptor; the directories of their names with the last of them. */
  async #write(
    waiting: readonly { place: string; bytes: Uint8Array }[],
    dirty: ReadonlySet<string>,
  ): Promise<void> {
    for (let i = 0; i < waiting.length; i += AT_ONCE) {
      const open: LogFile[] = []
      try {
        for (const { place, bytes } of waiting.slice(i, i + AT_ONCE)) {
          const file = await this.#files.create(place)
          open.push(file)
          await file.write(bytes)
        }
        const last = i + AT_ONCE >= waiting.length
        const contents = open.map((file) => this.#sync(() => file.sync()))
        await all(last ? [...contents, this.#syncDirs(dirty)] : contents)
      } finally {
        await all(open.map((file) => file.close()))
      }
    }
  }

  #syncDirs(dirs: ReadonlySet<string>): Promise<void> {
    return all([...dirs].map((dir) => this.#sync(() => this.#files.syncDir(join(this.#root, dir)))))
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
  for (const made of makeNames(dir).reverse()) await files.syncDir(dirname(made))
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

const SPACE = 'free some space; nothing is lost, the journals hold it'
const RIGHTS = 'let its directory be written to again; nothing is lost, the journals hold it'
const REMEDIES: Readonly<Record<string, string | undefined>> = {
  ENOSPC: SPACE,
  EDQUOT: SPACE,
  EACCES: RIGHTS,
  EPERM: RIGHTS,
  EROFS: RIGHTS,
}

/** Any failure of the disk as ERR_LOG_FAILED; coded errors as they are. */
export function logFailed(error: unknown): AmbitError {
  if (error instanceof AmbitError) return error
  const remedy = REMEDIES[errnoOf(error) ?? '']
  return new AmbitError('ERR_LOG_FAILED', 'could not write the log', messageOf(error), remedy, {
    cause: error,
  })
}
