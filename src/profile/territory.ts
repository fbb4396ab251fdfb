/**
 * Ambit's own places: configuration, state, sockets, policy and built programs. No session may see them under any
 * name, or it could change the bounds of the next one (F-24, C-48).
 */
import { readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { AmbitError, errnoOf } from '../lib/errors.ts'
import { installRoot, type Paths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'

export interface Territory {
  readonly what: string
  /** As configured, and as the kernel resolves it; both, since either name may be the one that a root covers. */
  readonly names: readonly string[]
  /** `dev:ino` of the directory; null while it does not exist. */
  readonly self: string | null
  /** `dev:ino` of the directory and of each ancestor but `/`. */
  readonly chain: readonly string[]
}

/** The places of Ambit that no session may see, by every name and identity they have. */
export function territories(paths: Paths): Territory[] {
  const own = installRoot()
  return [
    { what: "Ambit's configuration", path: paths.config },
    { what: "Ambit's state", path: paths.state },
    { what: "Ambit's run directory", path: paths.run },
    { what: 'the shipped profiles', path: join(own, 'profiles') },
    { what: 'the shipped policies', path: join(own, 'policies') },
    { what: "Ambit's programs", path: join(own, '.build') },
  ].map(({ what, path }) => {
    const real = realOf(path)
    return { what, names: [...new Set([path, real])], self: identityOf(real), chain: identities(real) }
  })
}

/**
 * Refuses a root that holds one of Ambit's places, lies within one, or reaches one through a mount.
 *
 * @throws AmbitError ERR_PATH_FORBIDDEN
 */
export function refuseTerritory(root: string, place: string, territories: readonly Territory[]): void {
  const real = realOf(root)
  const self = identityOf(real)
  const chain = identities(real)
  const mounts = mountsWithin(real).map(identityOf)
  for (const territory of territories) {
    const byName = territory.names.some((name) =>
      [root, real].some((path) => within(name, path) || within(path, name)),
    )
    // The same directory under another name: a bind mount of it, of what holds it, or of what lies in it.
    const byIdentity =
      (self !== null && territory.chain.includes(self)) ||
      (territory.self !== null && chain.includes(territory.self)) ||
      mounts.some((mount) => mount !== null && territory.chain.includes(mount))
    if (byName || byIdentity) {
      throw new AmbitError(
        'ERR_PATH_FORBIDDEN',
        `${place} (${printable(root)})`,
        `reaches ${territory.what} (${printable(territory.names[0] ?? '')})`,
        'choose a directory that has nothing of Ambit in it, or set AMBIT_HOME elsewhere',
      )
    }
  }
}

/** True when `path` is `directory` or lies within it. Both normalised. */
export const within = (path: string, directory: string): boolean =>
  path === directory || path.startsWith(directory.endsWith('/') ? directory : `${directory}/`)

/** The names that lead from `directory` to `path`; null unless it lies beneath it. Both normalised. Twin of `beneath` in native/view/src/rules.rs. */
export const beneath = (path: string, directory: string): string | null =>
  path !== directory && within(path, directory) ? relative(directory, path) : null

/** The path with the links of its longest existing part resolved. */
export function realOf(path: string): string {
  try {
    return realpathSync.native(path)
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR') throw unreadable(path, error)
    const parent = dirname(path)
    if (parent === path) return path
    const target = linkAt(path)
    // A link to nothing yet is followed too: who makes the directory makes it there.
    return target === null ? join(realOf(parent), basename(path)) : realOf(resolve(realOf(parent), target))
  }
}

function linkAt(path: string): string | null {
  try {
    return readlinkSync(path)
  } catch {
    return null // no link, or nothing at all
  }
}

const unreadable = (path: string, error: unknown): AmbitError =>
  new AmbitError(
    'ERR_PATH_FORBIDDEN',
    printable(path),
    `cannot be resolved: ${errnoOf(error) ?? 'unknown'}`,
    undefined,
    {
      cause: error,
    },
  )

/** Identities of `real` and its ancestors but `/`. What does not exist has none and is passed over. */
function identities(real: string): string[] {
  const chain: string[] = []
  for (let path = real; path !== dirname(path); path = dirname(path)) {
    const identity = identityOf(path)
    if (identity !== null) chain.push(identity)
  }
  return chain
}

function identityOf(path: string): string | null {
  try {
    const { dev, ino } = statSync(path, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return null // absent or unreadable to the user: then it is so for the session as well
  }
}

/** Mount points below `directory`. Octal escapes as in proc_pid_mountinfo(5). */
function mountsWithin(directory: string): string[] {
  let table: string
  try {
    table = readFileSync('/proc/self/mountinfo', 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [] // no Linux: no bind mounts
    throw unreadable('/proc/self/mountinfo', error)
  }
  return table
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, octal: string) =>
        String.fromCharCode(Number.parseInt(octal, 8)),
      ),
    )
    .filter((path) => path !== directory && path !== '' && within(path, directory))
}
