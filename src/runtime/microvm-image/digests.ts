/**
 * SHA-256 of files that seldom change: an image of some 170 MB is read anew only when it is another file than the last
 * time. A write, by whatever way, gives a file another change time (ctime), which no system call sets.
 */
import { createHash } from 'node:crypto'
import {
  type BigIntStats,
  createReadStream,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { makeDir } from '../../lib/make-dir.ts'
import { imagesDir, type Paths } from '../../lib/paths.ts'

const entry = z.strictObject({ file: z.string(), sha256: z.string().regex(/^[0-9a-f]{64}$/) })
const schema = z.record(z.string(), entry)
type Known = z.infer<typeof schema>

const MOST = 64
/** A write within the clock's granularity after the last one would not show (nanoseconds). */
const SETTLED = 2_000_000_000n

/** What is known of the files that this account's machines start from. */
export class Digests {
  readonly #path: string
  readonly #known: Known

  private constructor(path: string, known: Known) {
    this.#path = path
    this.#known = known
  }

  static of(paths: Paths): Digests {
    const path = join(imagesDir(paths), '.digests.json')
    return new Digests(path, read(path))
  }

  /** As if every file were new. */
  static anew(paths: Paths): Digests {
    return new Digests(join(imagesDir(paths), '.digests.json'), {})
  }

  /** Reads the file unless it is the one that was read before. Rejects with what the file system says. */
  async sha256(path: string): Promise<string> {
    const before = identify(path)
    const known = this.#known[path]
    if (known?.file === before.name) return known.sha256
    const hash = createHash('sha256')
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash)
    const sha256 = hash.digest('hex')
    if (before.settled && identify(path).name === before.name) this.#keep(path, { file: before.name, sha256 })
    return sha256
  }

  #keep(path: string, found: Known[string]): void {
    delete this.#known[path]
    const all = [...Object.entries(this.#known).slice(1 - MOST), [path, found] as const]
    this.#known[path] = found
    try {
      makeDir(dirname(this.#path))
      const aside = `${this.#path}.${process.pid}`
      writeFileSync(aside, JSON.stringify(Object.fromEntries(all)), { mode: 0o600 })
      renameSync(aside, this.#path)
    } catch {
      // Then the next start reads it again.
    }
  }
}

function identify(path: string): { name: string; settled: boolean } {
  const stat: BigIntStats = statSync(path, { bigint: true })
  const { dev, ino, size, mtimeNs, ctimeNs } = stat
  return {
    name: [dev, ino, size, mtimeNs, ctimeNs].join(':'),
    settled: BigInt(Date.now()) * 1_000_000n - ctimeNs > SETTLED,
  }
}

/**
 * By which `ambit-launch` knows the file again: device, inode, size, times of the last write and change in nanoseconds.
 * The former can be put back, the latter cannot.
 */
export const fileIdentity = (path: string): string => identify(path).name

/** What cannot be read is not known. */
function read(path: string): Known {
  try {
    return schema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    return {}
  }
}
