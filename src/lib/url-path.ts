/**
 * Path globs of network rules: `*` matches within a segment, a trailing `*` (or `**`) any rest. The query is never
 * part of the match.
 *
 * Paths are attacker-controlled and matched as they are spelled on the wire. Servers disagree on what `%2f`, `..;` or
 * `//` mean, so a rule that limits paths refuses such spellings altogether (N-32).
 */

/** The path of a request target, without its query. */
export function pathOf(target: string): string {
  const query = target.indexOf('?')
  return query === -1 ? target : target.slice(0, query)
}

/** True when every server reads `path` the same way: plain segments, no dots, no encoded letters or separators. */
export function isPlainPath(path: string): boolean {
  if (!/^\/[A-Za-z0-9\-._~!$&'()*+,=:@/%]*$/.test(path)) return false
  if (path.includes('//') || /\/\.{1,2}(?:\/|$)/.test(path)) return false
  return !path.includes('%') || hasOnlyPlainEscapes(path)
}

/**
 * Escapes that hide nothing: valid UTF-8, and not of a letter, digit, dot, separator, control character or `%` itself,
 * nor of what becomes one: overlong forms (`%c0%ae` was a dot to servers of every make) and full-width twins.
 */
function hasOnlyPlainEscapes(path: string): boolean {
  let decoded: string
  try {
    decoded = decodeURIComponent(path)
  } catch {
    return false
  }
  const separators = (text: string): number => text.match(/[./\\;?#%]/g)?.length ?? 0
  if (separators(decoded.normalize('NFKC')) !== separators(path.replace(/%../g, ''))) return false
  for (let at = path.indexOf('%'); at !== -1; at = path.indexOf('%', at + 1)) {
    const hex = path.slice(at + 1, at + 3)
    if (!/^[0-9a-fA-F]{2}$/.test(hex)) return false
    const char = String.fromCharCode(Number.parseInt(hex, 16))
    // oxlint-disable-next-line no-control-regex -- control characters are what this looks for
    if (/[A-Za-z0-9\-._~/\\%;?#\x00-\x1f\x7f]/.test(char)) return false
  }
  return true
}

/** Whether a glob is well formed: begins with `/`, no query, no fragment, no `**` but at the end. */
export function isPathGlob(glob: string): boolean {
  return /^\/[^?#\s]*$/.test(glob) && !/\*\*(?!$)/.test(glob)
}

/**
 * Whether `glob` matches the whole of `path`. Greedy with one step back, so the work is at most glob × path: no
 * pattern makes it explode on a path that the attacker chose.
 */
export function matchesPath(glob: string, path: string): boolean {
  let pattern = glob
  let any = false
  while (pattern.endsWith('*')) {
    pattern = pattern.slice(0, -1)
    any = true
  }
  let g = 0
  let p = 0
  let star = -1
  let mark = 0
  while (p < path.length || g < pattern.length) {
    if (g === pattern.length && any) return true
    if (g < pattern.length && pattern[g] === '*') {
      star = g++
      mark = p
    } else if (g < pattern.length && p < path.length && pattern[g] === path[p]) {
      g++
      p++
    } else if (star !== -1 && mark < path.length && path[mark] !== '/') {
      // The last star takes one character more. An earlier star never needs to: its segment is already matched.
      g = star + 1
      p = ++mark
    } else return false
  }
  return true
}
