/** The tree that the view is measured on: 18,000 small text files under git, the same bytes every time. */
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { makeDir } from '../src/lib/make-dir.ts'
import { sh } from './cache.ts'

/** Not 20,000: passthrough_hp keeps a descriptor for each inode, and the usual hard limit is 20,000 of them. */
export const FILES = 18_000

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
