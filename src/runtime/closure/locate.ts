import { accessSync, constants, readdirSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { readBeginning, readSmallFile } from '../../lib/small-file.ts'

/** Where a command is looked up. */
export interface Lookup {
  readonly path: string
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
}

/** Whether execvp(3) would start `path`. */
export function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false // absent, or not ours to run: the search goes on, as execvp(3) does
  }
}

/**
 * Finds `command` as a shell would, and looks through version managers' shims: a shim is a script that picks the
 * program at run time from files that do not exist inside. Null when there is none.
 */
export function locate(command: string, lookup: Lookup): string | null {
  if (command.includes('/')) {
    const path = resolve(lookup.cwd, command)
    return isProgram(path) ? throughShim(path, lookup) : null
  }
  for (const dir of lookup.path.split(':')) {
    if (!dir.startsWith('/')) continue // "." on PATH would be the agent's to fill
    const path = join(dir, command)
    if (!isProgram(path)) continue
    const program = throughShim(path, lookup)
    if (program) return program
  }
  return null
}

function throughShim(path: string, lookup: Lookup): string | null {
  const dir = dirname(path)
  const manager = dirname(dir)
  if (basename(dir) === 'shims') {
    if (isDir(join(manager, 'versions'))) return pyenvTarget(manager, basename(path), lookup)
    if (isDir(join(manager, 'installs'))) return installsTarget(manager, path)
  }
  if (basename(dir) === 'bin' && isDir(join(manager, 'tools/image')))
    return voltaTarget(manager, basename(path))
  if (basename(dir) === 'bin' && basename(realpathSync(path)) === 'rustup' && basename(path) !== 'rustup')
    return rustupTarget(manager, basename(path), lookup)
  return path
}

/** https://rust-lang.github.io/rustup/overrides.html: the first of these names that is installed. */
function rustupTarget(cargo: string, name: string, lookup: Lookup): string | null {
  const root = lookup.env.RUSTUP_HOME ?? join(dirname(cargo), basename(cargo).replace('cargo', 'rustup'))
  const named = (lines: readonly string[], key: string): string[] =>
    lines.flatMap((line) => new RegExp(`^${key}\\s*=\\s*"([^"]+)"`).exec(line)?.[1] ?? [])
  const wanted = [
    ...(lookup.env.RUSTUP_TOOLCHAIN ? [lookup.env.RUSTUP_TOOLCHAIN] : []),
    ...upwards(lookup.cwd).flatMap((dir) => [
      ...linesOf(join(dir, 'rust-toolchain')).slice(0, 1),
      ...named(linesOf(join(dir, 'rust-toolchain.toml')), 'channel'),
    ]),
    ...named(linesOf(join(root, 'settings.toml')), 'default_toolchain'),
  ]
  const installed = list(join(root, 'toolchains'))
  for (const want of wanted.filter(isVersion)) {
    const have = installed.find((dir) => dir === want || dir.startsWith(`${want}-`))
    const path = have ? join(root, 'toolchains', have, 'bin', name) : ''
    if (have && isProgram(path)) return path
  }
  return null // nothing chosen, or a component that is not installed
}

/** https://github.com/pyenv/pyenv#understanding-python-version-selection */
function pyenvTarget(root: string, name: string, lookup: Lookup): string | null {
  for (const version of pyenvVersions(root, lookup)) {
    const path = join(root, 'versions', version, 'bin', name)
    if (isProgram(path)) return path
  }
  return null // "system", or a version without this program: the next PATH entry serves
}

function pyenvVersions(root: string, lookup: Lookup): string[] {
  const chosen =
    lookup.env.PYENV_VERSION?.split(':') ??
    upwards(lookup.cwd)
      .map((dir) => linesOf(join(dir, '.python-version')))
      .find((lines) => lines.length > 0) ??
    linesOf(join(root, 'version'))
  const installed = list(join(root, 'versions'))
  return chosen.filter(isVersion).map((wanted) => {
    const prefixed = installed.filter((have) => have.startsWith(`${wanted}.`)).sort(byVersion)
    return installed.includes(wanted) ? wanted : (prefixed.at(-1) ?? wanted)
  })
}

/** asdf writes its choice into the shim (`# asdf-plugin: nodejs 22.1.0`); mise links all shims to itself. */
function installsTarget(root: string, shim: string): string | null {
  const name = basename(shim)
  const text = readSmallFile(shim, 65_536) ?? ''
  const noted = [...text.matchAll(/^# asdf-plugin: (\S+) (\S+)$/gm)].map((match) => [match[1], match[2]])
  const pairs =
    noted.length > 0
      ? noted
      : list(join(root, 'installs')).flatMap((tool) =>
          list(join(root, 'installs', tool))
            .sort(byVersion)
            .reverse()
            .map((version) => [tool, version]),
        )
  for (const [tool, version] of pairs) {
    if (!tool || !version || !isVersion(tool) || !isVersion(version)) continue
    const path = join(root, 'installs', tool, version, 'bin', name)
    if (isProgram(path)) return path
  }
  return null
}

/** Volta notes in JSON which package and which Node a shim stands for. */
function voltaTarget(root: string, name: string): string | null {
  if (name === 'node' || name === 'npm' || name === 'npx') {
    const platform = parseJson(join(root, 'tools/user/platform.json'))
    const runtime = (platform?.value as { node?: { runtime?: unknown } } | null)?.node?.runtime
    if (typeof runtime !== 'string' || !isVersion(runtime)) return null
    const path = join(root, 'tools/image/node', runtime, 'bin', name)
    return isProgram(path) ? path : null
  }
  const noted = parseJson(join(root, 'tools/user/bins', `${name}.json`))
  const bin = noted?.value as { package?: unknown } | null
  if (typeof bin?.package !== 'string' || bin.package.includes('..')) return null
  const path = join(root, 'tools/image/packages', bin.package, 'bin', name)
  return isProgram(path) ? path : null
}

/** A version or tool name from a file: one path segment, never `..`. */
const isVersion = (text: string): boolean => /^[\w@+][\w.@+-]*$/.test(text)

const byVersion = (a: string, b: string): number => a.localeCompare(b, 'en', { numeric: true })

function upwards(dir: string): string[] {
  const parent = dirname(dir)
  return parent === dir ? [dir] : [dir, ...upwards(parent)]
}

function isDir(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}

function list(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return [] // an absent directory has no versions
  }
}

function linesOf(path: string): string[] {
  // Absent: the next place decides.
  return (readBeginning(path, 4096)?.toString('utf8') ?? '')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line && !line.startsWith('#'))
}

/** Manifests are pages; the largest that are published have some hundred KiB. */
const MOST_JSON = 1 << 20

/** A JSON file that somebody else wrote, with its length in characters; null where there is nothing to learn from it. */
export function parseJson(path: string): { readonly value: unknown; readonly length: number } | null {
  const text = readSmallFile(path, MOST_JSON)
  if (text === null) return null
  try {
    return { value: JSON.parse(text), length: text.length }
  } catch {
    return null // malformed
  }
}
