/**
 * SHA-256 of files that seldom change: an image of some 170 MB is read anew only when it is another file than the last
 * time. A write, by whatever way, gives a file another change time (ctime), which no system call sets. What is remembered
 * lies beside the images, so it is believed only with a MAC, whose key follows from the image key.
 */
import { createHash, createHmac, hkdfSync, timingSafeEqual } from 'node:crypto'
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
import { imagesDir, keysDir, type Paths } from '../../lib/paths.ts'
import { loadImageKey } from './minisign.ts'

const entry = z.strictObject({ file: z.string(), sha256: z.string().regex(/^[0-9a-f]{64}$/) })
const schema = z.record(z.string(), entry)
type Known = z.infer<typeof schema>
/** `known` is a `Known` as JSON: its very characters are vouched for. */
const vouched = z.strictObject({ mac: z.string().regex(/^[0-9a-f]{64}$/), known: z.string() })

/** Tells this key from whatever else may be derived from the image key. */
const LABEL = 'ambit: remembered digests of images'
const MOST = 64
/** A write within the clock's granularity after the last one would not show (nanoseconds). */
const SETTLED = 2_000_000_000n

/** What is known of the files that this account's machines start from. */
export class Digests {
  readonly #path: string
  readonly #key: Buffer | null
  readonly #known: Known

  private constructor(path: string, key: Buffer | null, known: Known) {
    this.#path = path
    this.#key = key
    this.#known = known
  }

  static of(paths: Paths): Digests {
    const [path, key] = [placeOf(paths), keyOf(paths)]
    return new Digests(path, key, key ? read(path, key) : {})
  }

  /** As if every file were new. */
  static anew(paths: Paths): Digests {
    return new Digests(placeOf(paths), keyOf(paths), {})
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
    if (!this.#key) return
    try {
      makeDir(dirname(this.#path))
      const aside = `${this.#path}.${process.pid}`
      const known = JSON.stringify(Object.fromEntries(all))
      const mac = macOf(known, this.#key).toString('hex')
      writeFileSync(aside, JSON.stringify({ mac, known }), { mode: 0o600 })
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

const placeOf = (paths: Paths): string => join(imagesDir(paths), '.digests.json')

/** Null without an image key that can be used: then nothing is remembered. */
function keyOf(paths: Paths): Buffer | null {
  try {
    const secret = loadImageKey(keysDir(paths))?.privateKey.export({ format: 'der', type: 'pkcs8' })
    return secret ? Buffer.from(hkdfSync('sha256', secret, '', LABEL, 32)) : null
  } catch {
    return null // whoever needs it for a signature says why
  }
}

const macOf = (known: string, key: Buffer): Buffer => createHmac('sha256', key).update(known).digest()

/** What cannot be read, or nobody with the key wrote, is not known. All of the file may be an attacker's. */
function read(path: string, key: Buffer): Known {
  try {
    const { mac, known } = vouched.parse(JSON.parse(readFileSync(path, 'utf8')))
    return timingSafeEqual(Buffer.from(mac, 'hex'), macOf(known, key)) ? schema.parse(JSON.parse(known)) : {}
  } catch {
    return {}
  }
}
