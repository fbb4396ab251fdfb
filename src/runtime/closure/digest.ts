import { createHash, type Hash } from 'node:crypto'
import { type BigIntStats, closeSync, lstatSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { readlinkSync, readSync, renameSync, writeFileSync } from 'node:fs'
import { makeDir } from '../../lib/make-dir.ts'

/** Digests that were computed before, by key. */
export interface DigestCache {
  read(key: string): string | null
  write(key: string, value: string): void
}

/** Above these a digest would cost seconds at every change; the agent then counts as not measured. */
const MOST_ENTRIES = 60_000
const MOST_BYTES = 2n << 30n

interface Entry {
  readonly path: string
  readonly stat: BigIntStats
}

/**
 * SHA-256, hex, over files, links and directories of `paths`: sorted path, mode and content of each. Null when the
 * trees are too large. Content is read again only if a size, inode, mtime or ctime changed; ctime cannot be set back.
 */
export function measureTrees(paths: readonly string[], cache: DigestCache): string | null {
  const entries = walk(paths)
  if (!entries) return null
  const signature = signatureOf(entries)
  const key = sha256().update(paths.join('\0')).digest('hex')
  const [known, digest] = cache.read(key)?.split(' ') ?? []
  if (known === signature && digest && /^[0-9a-f]{64}$/.test(digest)) return digest
  const fresh = digestOf(entries)
  cache.write(key, `${signature} ${fresh}`)
  return fresh
}

function walk(paths: readonly string[]): Entry[] | null {
  const entries: Entry[] = []
  let bytes = 0n
  const queue = [...paths].reverse()
  for (let path = queue.pop(); path; path = queue.pop()) {
    const stat = lstatSync(path, { bigint: true })
    entries.push({ path, stat })
    bytes += stat.isFile() ? stat.size : 0n
    if (entries.length > MOST_ENTRIES || bytes > MOST_BYTES) return null
    if (stat.isDirectory())
      for (const name of readdirSync(path).sort().reverse()) queue.push(`${path}/${name}`)
  }
  return entries
}

function signatureOf(entries: Entry[]): string {
  const hash = sha256()
  for (const { path, stat } of entries) {
    hash.update(`${path}\0${stat.ino} ${stat.mode} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}\n`)
  }
  return hash.digest('hex')
}

function digestOf(entries: Entry[]): string {
  const hash = sha256()
  const buffer = Buffer.allocUnsafe(1 << 20)
  for (const { path, stat } of entries) {
    hash.update(`${path}\0${(stat.mode & 0o177777n).toString(8)}\0${contentOf(path, stat, buffer)}\n`)
  }
  return hash.digest('hex')
}

function contentOf(path: string, stat: BigIntStats, buffer: Buffer): string {
  if (stat.isSymbolicLink()) return readlinkSync(path)
  return stat.isFile() ? fileDigest(path, buffer) : ''
}

function fileDigest(path: string, buffer: Buffer): string {
  const hash = sha256()
  const fd = openSync(path, 'r')
  try {
    for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) hash.update(buffer.subarray(0, n))
  } finally {
    closeSync(fd)
  }
  return hash.digest('hex')
}

const sha256 = (): Hash => createHash('sha256')

/** Digests by their key, in files of their own. A cache that cannot be written only costs time. */
export function digestCache(dir: string): DigestCache {
  return {
    read(key: string): string | null {
      try {
        return readFileSync(`${dir}/${key}`, 'utf8')
      } catch {
        return null
      }
    },
    write(key: string, value: string): void {
      try {
        makeDir(dir)
        writeFileSync(`${dir}/${key}.${process.pid}`, value, { mode: 0o600 })
        renameSync(`${dir}/${key}.${process.pid}`, `${dir}/${key}`)
      } catch {
        return // measured again next time
      }
    },
  }
}
