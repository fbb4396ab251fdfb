/** The tree that the view is measured on: small text files under git, the same bytes every time. */
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { makeDir } from '../src/lib/make-dir.ts'
import { sh } from './cache.ts'

/** The goal's 20,000; fewer where passthrough_hp, which keeps a descriptor for each inode, could not hold the tree. */
export const FILES = hardLimit() > 22_000 ? 20_000 : 18_000

/** How many descriptors a process may have here at most. */
export function hardLimit(): number {
  const line = /^Max open files\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return Number(line?.[1] ?? Number.POSITIVE_INFINITY)
}

const WORDS =
  'ledger account total foo entry balance return const await invoice export month review line'.split(' ')

/** Writes a tree of `files` to `dir` and commits it, packed, so that `.git` adds few inodes. */
export async function makeTree(dir: string, files = FILES): Promise<void> {
  const random = generator(20_261_122)
  for (let i = 0; i < files; i++) {
    const path = join(dir, `part-${i % 40}`, `group-${Math.floor(i / 40) % 25}`, `file-${i}.ts`)
    if (i < 1000) makeDir(dirname(path), 0o777)
    writeFileSync(path, text(random))
  }
  const git = (...args: string[]): Promise<string> =>
    sh(
      'git',
      ['-c', 'user.name=bench', '-c', 'user.email=bench@example.com', '-c', 'gc.auto=0', ...args],
      dir,
    )
  await git('init', '-q')
  await git('add', '-A')
  await git('commit', '-qm', 'Tree')
  await git('repack', '-adq')
  await git('prune-packed', '-q')
}

/** 0.3 to 6 KB of lines, most of them small. */
function text(random: () => number): string {
  const lines = 6 + Math.floor(100 * random() ** 3)
  const line = (): string =>
    Array.from({ length: 8 }, () => WORDS[Math.floor(random() * WORDS.length)]).join(' ')
  return Array.from({ length: lines }, line).join('\n')
}

/** mulberry32: small, and the same on every machine. */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
