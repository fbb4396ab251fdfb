/** Patterns are matched in TypeScript and in Rust: random lists and paths must get one answer from both. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { compileGlobs } from '../../src/lib/glob.ts'
import { nativeBinary } from '../../src/lib/paths.ts'

const SEEDS = [1, 20_261_122, Date.now() % 2 ** 31]
const LISTS = 4000

/** mulberry32: the same numbers for the same seed. */
function numbers(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}

/** Pieces in which spellings differ: case, composition, width, sharp s, Turkish i, final dots and spaces, joiners. */
const PIECES = [
  'a',
  'A',
  'b',
  '.env',
  '.ENV',
  'x.pem',
  'git',
  ' ',
  '-',
  '!',
  '#',
  '@',
  '$',
  '(',
  ')',
  '~',
  'é',
  'e\u0301',
  'ß',
  'ss',
  'ſ',
  'ﬁ',
  'fi',
  'İ',
  'i',
  'ı',
  'K',
  'k',
  'Σ',
  'ς',
  'ｅ',
  'Å',
  '\u212b',
  'ⅷ',
  '\u200d',
  '\u00ad',
  '\ufeff',
  '\u202e',
  '\t',
  '👍',
  '\u{1f1e9}',
  '가',
  '\u1100\u1161',
]
const MAGIC = ['*', '**', '?', '*', '*.pem', '.env*', '\\*', '**', 'x*']
/** What some parsers give a meaning, and most lists never hold: the twins must refuse the same. */
const ODD = ['[ab]', '[!a]', '[', ']', '{a,b}', '{', '\\', '\\\\', '***', 'a**', '..', '.', '\u0000', '\n']

function sample(seed: number): { globs: string[]; paths: string[] }[] {
  const below = numbers(seed)
  const pick = (list: readonly string[]): string => list[below(list.length)] ?? ''
  const name = (pieces: readonly string[]): string =>
    Array.from({ length: 1 + below(3) }, () => pick(pieces)).join('')
  const segments = (most: number, one: () => string): string[] => Array.from({ length: 1 + below(most) }, one)
  const segment = (): string =>
    below(60) === 0
      ? pick(ODD)
      : below(3) === 0
        ? pick(MAGIC)
        : name(below(4) === 0 ? [...PIECES, '*', '?'] : PIECES)
  const pattern = (): string => {
    const body = segments(4, segment)
    return `${pick(['', '', '', '!'])}${pick(['', '', '/', '**/'])}${body.join('/')}${pick(['', '', '', '/', '/**'])}`
  }
  return Array.from({ length: LISTS }, () => {
    const globs = segments(3, pattern)
    const free = Array.from({ length: 6 }, () =>
      segments(4, () => name(below(8) === 0 ? ODD : PIECES)).join('/'),
    )
    // Near the patterns: most random paths match nothing.
    const near = globs.flatMap((glob) => {
      const plain = glob
        .replace(/^!?\/?/, '')
        .replaceAll('**', pick(['x', 'a/b', 'q']))
        .replaceAll('*', pick(['', 'a', 'é.x']))
      return [
        plain,
        plain.toUpperCase(),
        `${pick(PIECES)}/${plain}`,
        `${plain}/${pick(PIECES)}`,
        plain.normalize('NFD'),
      ]
    })
    return { globs, paths: [...free, ...near].filter((path) => path !== '' && !path.startsWith('/')) }
  })
}

function inTypeScript(globs: readonly string[], paths: readonly string[]): boolean[] | null {
  let matches: (path: string) => boolean
  try {
    matches = compileGlobs(globs)
  } catch {
    return null
  }
  return paths.map(matches)
}

const missing = existsSync(nativeBinary('ambit-view')) ? false : 'ambit-view is not built'

for (const seed of SEEDS)
  test(`TypeScript and Rust answer alike, seed ${seed}`, { skip: missing }, () => {
    const questions = sample(seed)
    const input = questions.map((question) => JSON.stringify(question)).join('\n')
    const ran = spawnSync(nativeBinary('ambit-view'), ['globs'], {
      input,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    })
    assert.equal(ran.status, 0, ran.stderr)
    const answers = ran.stdout.trim().split('\n')
    assert.equal(answers.length, questions.length)
    let [hits, refused] = [0, 0]
    for (const [index, { globs, paths }] of questions.entries()) {
      const ours = inTypeScript(globs, paths)
      const theirs = JSON.parse(answers[index] ?? 'null') as boolean[] | null
      if (JSON.stringify(ours) !== JSON.stringify(theirs)) {
        const at = ours && theirs ? ours.findIndex((hit, place) => hit !== theirs[place]) : -1
        assert.fail(
          `${JSON.stringify({ globs, path: paths[at], ours: ours?.[at] ?? ours, theirs: theirs?.[at] ?? theirs })}`,
        )
      }
      if (ours === null) refused += 1
      else hits += ours.filter(Boolean).length
    }
    assert.ok(
      hits > LISTS && refused > LISTS / 50 && refused < LISTS / 2,
      `${hits} hits, ${refused} lists refused`,
    )
  })
