/** `${project}`, `${workspace}`, `${mirror}` and `${home}` at the start of a profile's paths. */
import { isAbsolute, normalize } from 'node:path'

/** What a session's command line and user make of a profile. Absolute paths. */
export interface Variables {
  readonly project: string
  readonly workspace: string
  /** Default: the workspace's path with `-mirror`. */
  readonly mirror?: string
  /** The user's real home directory. */
  readonly home: string
  /** Directories where commands are looked up, to protect those inside a root. Default: $PATH. */
  readonly searchPath?: readonly string[]
}

const VARIABLES = ['project', 'workspace', 'mirror', 'home'] as const
export type VariableName = (typeof VARIABLES)[number]

export interface Expanded {
  /** Normalised, without a trailing slash. */
  readonly path: string
  readonly variable: VariableName | null
  /** True for `${project}` alone, false for `${project}/src`. */
  readonly bare: boolean
}

/**
 * The absolute path that `text` stands for.
 *
 * @returns a sentence that says what is wrong, instead of a path, when something is.
 */
export function expandPath(text: string, values: Readonly<Record<VariableName, string>>): Expanded | string {
  // oxlint-disable-next-line no-control-regex -- a NUL ends a path early for the kernel, the rest confuses readers
  if (/[\u0000-\u001f\u007f]/.test(text)) return 'has control characters'
  const match = /^\$\{([^}]*)\}(.*)$/s.exec(text)
  const name = match?.[1]
  const rest = match ? (match[2] ?? '') : text
  if (rest.includes('${')) return 'a variable may stand at the start only'
  if (name !== undefined && !isVariable(name))
    return `there is no variable \${${name}}; there are ${VARIABLES.join(', ')}`
  if (rest.split('/').some((part) => part === '..' || part === '.'))
    return 'has . or .. in it: write the directory itself'
  // Not a pattern: `/tmp/x/**` must never come to mean more than a directory (F-06).
  if (/[*?]/.test(rest)) return 'is a pattern: name a directory, and narrow it with hide'
  if (name !== undefined && rest !== '' && !rest.startsWith('/')) return `has no / after \${${name}}`
  const path = name === undefined ? rest : values[name] + rest
  if (!isAbsolute(path)) return 'is not absolute: begin with / or a variable'
  const bare = rest.replaceAll('/', '') === ''
  return { path: normalize(path).replace(/(?<=.)\/+$/, ''), variable: name ?? null, bare }
}

const isVariable = (name: string): name is VariableName => (VARIABLES as readonly string[]).includes(name)
