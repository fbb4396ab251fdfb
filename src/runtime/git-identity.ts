import { join } from 'node:path'
import { readBeginning } from '../lib/small-file.ts'

const MOST_READ = 1 << 20

/**
 * A `.gitconfig` with the user's name and mail address and nothing else of theirs: no helpers, includes, hooks or
 * signing keys. Commits made inside carry the right name. Empty when git was never told one.
 */
export function gitIdentity(home: string): Record<string, string> {
  const files = [join(home, '.gitconfig'), join(home, '.config/git/config')]
  const user = files
    .map((path) => userSection(readBeginning(path, MOST_READ)?.toString('utf8') ?? ''))
    .find((lines) => lines.length > 0)
  return user ? { '.gitconfig': ['[user]', ...user, ''].join('\n') } : {}
}

/** `name` and `email` of `[user]`; values with quotes, escapes or continuations are left to the user. */
export function userSection(text: string): string[] {
  let section = ''
  const kept: string[] = []
  for (const line of text.split('\n').slice(0, 2000)) {
    section = /^\s*\[([^\]]*)\]/.exec(line)?.[1]?.trim().toLowerCase() ?? section
    const [, key, value] = /^\s*(name|email)\s*=\s*([^\\"#;]{1,200}?)\s*$/i.exec(line) ?? []
    if (section === 'user' && key && value) kept.push(`\t${key.toLowerCase()} = ${value}`)
  }
  return kept
}
