/**
 * The one glob language, twin of native/shared/src/glob.rs; test/fixtures/glob-vectors.json holds both to the same
 * answers.
 *
 * A list is read like a `.gitignore`: the last match wins, `!` re-admits, and what a directory's match says holds for
 * everything beneath it. Patterns are relative to their root; `*` and `?` stay within a segment, `**` is any number
 * of segments, a trailing `/**` is everything beneath and not the directory itself. Names are compared folded
 * (`foldName`), so that every spelling of a protected name gets one decision (F-12).
 */
import { AmbitError } from './errors.ts'
import { printable } from './printable.ts'

/** Longest pattern, bytes of UTF-8. */
const MAX_PATTERN = 1024

type Token = { readonly text: readonly string[] } | 'one' | 'many'
type Segment = 'deep' | { readonly literal: string } | { readonly tokens: readonly Token[] }

export interface Glob {
  readonly negated: boolean
  readonly segments: readonly Segment[]
}

/** Parses one pattern. Throws AmbitError ERR_INPUT_INVALID that names the pattern and what is wrong with it. */
export function parseGlob(pattern: string): Glob {
  const bad = (why: string): never => {
    throw new AmbitError('ERR_INPUT_INVALID', `pattern "${printable(pattern, 100)}"`, why)
  }
  if (Buffer.byteLength(pattern) > MAX_PATTERN) bad('is longer than 1024 bytes')
  const negated = pattern.startsWith('!')
  const body = pattern.slice(negated ? 1 : 0).replace(/^\//, '')
  if (body === '') bad('is empty')
  if (/\p{Cc}/u.test(body)) bad('has control characters')
  const segments: Segment[] = []
  for (const text of body.split('/')) {
    const segment = parseSegment(text, bad)
    if (segment !== 'deep' || segments.at(-1) !== 'deep') segments.push(segment)
  }
  if (segments.at(-1) === 'deep') segments.splice(-1, 0, { tokens: ['many'] })
  return { negated, segments }
}

function parseSegment(text: string, bad: (why: string) => never): Segment {
  if (text === '') bad('has an empty segment (write dir/** for what is beneath a directory)')
  if (text === '.' || text === '..') bad('has a `.` or `..`, which are no names')
  if (text === '**') return 'deep'
  if (text.includes('**')) bad('has `**` within a segment; it must stand alone')
  const tokens: Token[] = []
  let literal = ''
  const chars = Array.from(text)
  for (let at = 0; at < chars.length; at++) {
    const char = chars[at] as string
    if (char === '\\') literal += chars[++at] ?? bad('ends in a backslash')
    else if ('[]{}'.includes(char))
      bad('has brackets, which have no meaning here; write \\[ for the character')
    else if (char === '*' || char === '?') {
      if (literal !== '') tokens.push({ text: Array.from(foldText(literal)) })
      literal = ''
      tokens.push(char === '*' ? 'many' : 'one')
    } else literal += char
  }
  if (tokens.length === 0) return { literal: foldName(literal) }
  if (/[. ]$/.test(literal)) bad('has a wildcard segment that ends in a dot or space, which matches nothing')
  if (literal !== '') tokens.push({ text: Array.from(foldText(literal)) })
  return { tokens }
}

/**
 * The form in which names are compared: case-folded, NFC, without trailing dots and spaces and without the characters
 * that HFS+ ignores.
 */
function foldName(name: string): string {
  return foldText(name.replace(/[. ]+$/, '') || name)
}

// biome-ignore lint/suspicious/noMisleadingCharacterClass: single code points, not sequences
const IGNORABLE = /[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]/gu

function foldText(text: string): string {
  // oxlint-disable-next-line no-control-regex -- the whole ASCII range
  if (/^[\u0000-\u007f]*$/.test(text)) return text.toLowerCase()
  let folded = ''
  // Lower, upper, lower: joins what only case-folding joins (long s, both sharp s). By character, or final sigma
  // would depend on its place.
  for (const char of text.replace(IGNORABLE, '').normalize('NFD'))
    for (const upper of char.toLowerCase().toUpperCase()) folded += upper.toLowerCase()
  return folded.normalize('NFC')
}

/** Compiles a list into a predicate on paths relative to the root. Throws as `parseGlob` does. */
export function compileGlobs(list: readonly string[]): (relativePath: string) => boolean {
  const rules = list.map(parseGlob).reverse()
  return (relativePath) => {
    const names = relativePath
      .split('/')
      .filter((name) => name !== '')
      .map(foldName)
    return names.some((_, index) => decides(rules, names, index + 1))
  }
}

/** `rules` last first; `path` up to `length`. */
function decides(rules: readonly Glob[], path: readonly string[], length: number): boolean {
  const rule = rules.find((rule) => matchesPath(rule.segments, path, length))
  return rule !== undefined && !rule.negated
}

/** Greedy with one point of return: correct for a pattern whose only unbounded part is `**`. */
function matchesPath(pattern: readonly Segment[], path: readonly string[], length: number): boolean {
  // What a path does not end in is most often what tells that it does not match.
  const last = pattern.at(-1)
  if (last !== undefined && last !== 'deep' && !matchesName(last, path[length - 1] as string)) return false
  let [p, i, deep, from] = [0, 0, -1, 0]
  while (i < length) {
    const segment = pattern[p]
    if (segment === 'deep') {
      deep = p++
      from = i
    } else if (segment !== undefined && matchesName(segment, path[i] as string)) {
      p++
      i++
    } else if (deep >= 0) {
      p = deep + 1
      i = ++from
    } else return false
  }
  return pattern.slice(p).every((segment) => segment === 'deep')
}

function matchesName(segment: Exclude<Segment, 'deep'>, name: string): boolean {
  if ('literal' in segment) return segment.literal === name
  const { tokens } = segment
  const chars = Array.from(name)
  let [token, at, many, from] = [0, 0, -1, 0]
  for (;;) {
    const current = tokens[token]
    if (current === 'many') {
      many = token++
      from = at
      continue
    }
    if (current === undefined && at === chars.length) return true
    const length = current === undefined ? -1 : tokenLength(current, chars, at)
    if (length >= 0) {
      token++
      at += length
    } else if (many >= 0 && from < chars.length) {
      token = many + 1
      at = ++from
    } else return false
  }
}

/** How many characters the token takes at `at`; -1 when it does not match there. */
function tokenLength(token: Exclude<Token, 'many'>, chars: readonly string[], at: number): number {
  if (token === 'one') return at < chars.length ? 1 : -1
  return token.text.every((char, index) => chars[at + index] === char) ? token.text.length : -1
}
