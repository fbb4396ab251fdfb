import { randomInt } from 'node:crypto'

/** Published beginnings of keys: clients check them before they send anything. */
const PREFIX =
  /^(sk-ant-(?:api|oat|admin)\d\d-|sk-proj-|sk-svcacct-|sk-or-v1-|sk-|github_pat_|gh[opusr]_|glpat-|xox[abp]-|AIza|hf_|npm_|pypi-|[A-Za-z]{2,12}[-_])/

const ALPHABETS: readonly (readonly [RegExp, string])[] = [
  [/^[0-9]+$/, '0123456789'],
  [/^[0-9a-f]+$/, '0123456789abcdef'],
  [/^[0-9A-F]+$/, '0123456789ABCDEF'],
  [/^[0-9a-z]+$/, '0123456789abcdefghijklmnopqrstuvwxyz'],
  [/^[0-9A-Za-z]+$/, '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'],
]
const ANY = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_'

/**
 * A worthless value of the same shape as `secret`: its public prefix, its length, its alphabet; the rest is random
 * for each session (K-01). It tells the length of the secret and nothing else.
 */
export function placeholderFor(secret: string): string {
  const prefix = PREFIX.exec(secret)?.[0] ?? ''
  const rest = secret.slice(prefix.length)
  const alphabet = ALPHABETS.find(([form]) => form.test(rest))?.[1] ?? ANY
  const length = Math.max(rest.length, 16)
  return prefix + Array.from({ length }, () => alphabet[randomInt(alphabet.length)]).join('')
}
