import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { AmbitError } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import { adapterFor } from './agents.ts'
import { measureTrees } from './closure/digest.ts'
import { type Bounds, isWithin, refuseMount } from './closure/guard.ts'
import { isProgram, locate, type Lookup } from './closure/locate.ts'
import { ownLibraries } from './closure/elf.ts'
import { head, type Interpreter, isElf, parseShebang } from './closure/shebang.ts'
import { boundSockets } from './closure/sockets.ts'
import { isSystem, type Tree, treesOf } from './closure/trees.ts'

/** Links to the command and its interpreters, inside; first on PATH. */
export const BIN = '/run/ambit/bin'

/** A program and its closure: all that must be visible inside so that it starts, wherever it was installed. */
export interface Agent {
  /** Package name, or the command's file name. */
  readonly name: string
  readonly version: string | null
  /** Real path, free of links. */
  readonly executable: string
  /** The path to execute inside. */
  readonly argv0: string
  /** Host paths needed read-only at the same path inside; none contains another. */
  readonly mounts: readonly { readonly path: string }[]
  /** Links in BIN: the command and its interpreters, so that `env node` finds them. */
  readonly links: readonly { readonly name: string; readonly target: string }[]
  /** Directories for PATH inside, first one first. */
  readonly pathDirs: readonly string[]
  /** SHA-256, hex, over the package trees and interpreters; null where they lie in the session's own roots or are too large. */
  readonly digest: string | null
  /** For the grant sheet: what is switched off in the program, and where it is shown from. */
  readonly notes: readonly string[]
}

/** Where and for whom an agent is resolved. */
export interface Surroundings extends Bounds {
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
  /** Directory for cached digests. */
  readonly cache: string
}

/** One file that the kernel will execute: the command itself, then its interpreters. */
interface Program {
  readonly seen: string
  readonly real: string
  readonly trees: readonly Tree[]
  /** Named by something in a root of the session: the agent may have written it. */
  readonly foreign: boolean
}

/**
 * Finds `command` and everything it needs. Reads files, runs nothing.
 *
 * Throws ERR_COMMAND_NOT_FOUND, or ERR_PATH_FORBIDDEN when it lies where no closure may reach.
 */
export function resolveAgent(command: string, around: Surroundings): Agent {
  const lookup: Lookup = { path: around.env.PATH ?? '', cwd: around.cwd, env: around.env }
  const found = locate(command, lookup)
  if (!found) throw notFound(command)
  const main = programAt(found, isInRoot(found, around))
  if (main.real === '/usr/bin/snap') throw snapPackage(command)
  const programs = [main, ...interpretersOf(main, lookup, around)]
  const trees = programs.flatMap((program) => shownTrees(program, around))
  const mounts = outermost(trees.flatMap(mountPaths))
  const visible = [...mounts, ...around.roots]
  const owner = main.trees.find((tree) => tree.name !== undefined)
  const name = owner?.name ?? basename(found)
  return {
    name,
    version: owner?.version ?? null,
    executable: main.real,
    argv0: startPath(main, visible),
    mounts: mounts.map((path) => ({ path })),
    links: programs
      .filter((program) => !isSystem(program.seen))
      .map((program) => ({ name: basename(program.seen), target: program.real })),
    pathDirs: [...new Set(programs.map((program) => dirname(program.seen)))].filter(
      (dir) => isVisible(dir, visible) && !isSystem(dir),
    ),
    digest: measure(programs, trees, around),
    notes: [
      ...adapterFor({ name }).notes,
      ...mounts.map((path) => `its program can be read, not changed: ${path}`),
    ],
  }
}

function programAt(seen: string, foreign: boolean): Program {
  const real = realpathSync(seen)
  return { seen, real, trees: treesOf(real, seen), foreign }
}

const isInRoot = (path: string, around: Surroundings): boolean =>
  around.roots.some((root) => isWithin(path, root))

/** The interpreter, its interpreter, and so on; the kernel follows at most four. */
function interpretersOf(main: Program, lookup: Lookup, around: Surroundings): Program[] {
  const programs: Program[] = []
  for (let script = main; programs.length < 4; ) {
    const interpreter = parseShebang(head(script.real))
    if (!interpreter) break
    const path = interpreterPath(interpreter, lookup, around)
    // A script that the agent may have written chooses its interpreter's path, but not what PATH finds.
    const chosen = script.foreign || isInRoot(script.real, around)
    script = programAt(path, isInRoot(path, around) || (chosen && 'path' in interpreter))
    programs.push(script)
  }
  return programs
}

function interpreterPath(interpreter: Interpreter, lookup: Lookup, around: Surroundings): string {
  // A name is looked up outside the session's roots: what lies there is the agent's to replace.
  const path = lookup.path
    .split(':')
    .filter((dir) => !around.roots.some((root) => isWithin(dir, root)))
    .join(':')
  const found = 'name' in interpreter ? locate(interpreter.name, { ...lookup, path }) : interpreter.path
  if (found && isProgram(found)) return found
  const name = printable('name' in interpreter ? interpreter.name : interpreter.path)
  throw new AmbitError(
    'ERR_COMMAND_NOT_FOUND',
    'agent',
    `its interpreter ${name} is not installed`,
    `install ${name} and try again`,
  )
}

/** The trees of one program that have to be mounted: not the system's, not those that the view shows. */
function shownTrees(program: Program, around: Surroundings): Tree[] {
  const libraries = program.foreign || !isElf(head(program.real, 4)) ? [] : ownLibraries(program.real)
  const own = libraries.map((path): Tree => ({ kind: 'file', path }))
  const shown = [...program.trees, ...own].filter(
    (tree) => !isSystem(tree.path) && !isInRoot(tree.path, around),
  )
  return shown.map((tree) => guarded(tree, program, around))
}

/** Installations that are told by their layout and hold nothing but programs. */
const PLAIN: readonly Tree['kind'][] = ['python', 'node', 'brew', 'nix']

/**
 * A tree that may be shown. A refused directory shrinks to the file itself; a refused file is an error.
 *
 * What something in the session's roots names may lead to a plain installation (a venv's base interpreter), never to
 * any file, package or prefix: an earlier session could have planted the link.
 */
function guarded(tree: Tree, program: Program, around: Surroundings): Tree {
  if (program.foreign && !PLAIN.includes(tree.kind))
    throw forbidden(tree.path, 'a link or script in the project leads there')
  const reason = reasonAgainst(tree.path, around) ?? socketIn(tree.path)
  if (!reason) return tree
  if (program.foreign || tree.kind === 'file' || reasonAgainst(program.real, around))
    throw forbidden(tree.path, reason)
  return { ...tree, kind: 'file', path: program.real }
}

/** The home, Ambit's state and the roots count by the names they were given and by what these lead to. */
function reasonAgainst(path: string, around: Surroundings): string | null {
  const home = realPath(around.home)
  const behind = { home, own: around.own.map(realPath), roots: around.roots.map(realPath) }
  return refuseMount(path, around) ?? refuseMount(path, behind)
}

function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path // not there yet: nothing leads to it
  }
}

/** A read-only mount does not keep anybody from connecting to a socket under it (CASES.md C-42). */
function socketIn(path: string): string | null {
  return boundSockets().some((socket) => isWithin(socket, path))
    ? 'a program listens on a socket in it'
    : null
}

/** Parts of a tree that are mounted: all of it, but of a Homebrew prefix not `var` and only some of `etc`. */
function mountPaths(tree: Tree): string[] {
  if (tree.kind !== 'brew') return [tree.path]
  const parts = ['Cellar', 'opt', 'bin', 'lib', 'libexec', 'share', 'etc/openssl@3', 'etc/ca-certificates']
  return parts.map((part) => `${tree.path}/${part}`).filter((path) => existsSync(path))
}

function outermost(paths: string[]): string[] {
  const all = [...new Set(paths)].sort()
  return all.filter((path) => !all.some((other) => other !== path && isWithin(path, other)))
}

const isVisible = (path: string, visible: readonly string[]): boolean =>
  isSystem(path) || path.startsWith('/etc/alternatives/') || visible.some((place) => isWithin(path, place))

/**
 * Programs look at the name they were started by (`unxz`, a venv's `python`), so the link that was found is executed
 * where all of its way is visible inside, else one of that name in /run/ambit/bin.
 */
function startPath(program: Program, visible: readonly string[]): string {
  for (let path = program.seen, hops = 0; hops < 40; hops++) {
    if (!isVisible(path, visible)) break
    if (!lstatSync(path).isSymbolicLink()) return program.seen
    path = resolve(dirname(path), readlinkSync(path))
  }
  return `${BIN}/${basename(program.seen)}`
}

function measure(programs: Program[], trees: Tree[], around: Surroundings): string | null {
  if (around.roots.some((root) => programs.some((program) => isWithin(program.real, root)))) return null
  const paths = [
    ...programs.map((program) => program.real),
    ...trees.flatMap((tree) => tree.measured ?? [tree.path]),
  ]
  return measureTrees(outermost(paths), digestCache(around.cache))
}

/** Digests by their key, in files of their own. A cache that cannot be written only costs time. */
function digestCache(dir: string) {
  return {
    read(key: string): string | null {
      try {
        return readFileSync(`${dir}/${key}`, 'utf8')
      } catch {
        return null
      }
    },
    write(key: string, value: string): void {
      try {
        mkdirSync(dir, { recursive: true, mode: 0o700 })
        writeFileSync(`${dir}/${key}.${process.pid}`, value, { mode: 0o600 })
        renameSync(`${dir}/${key}.${process.pid}`, `${dir}/${key}`)
      } catch {
        return // measured again next time
      }
    },
  }
}

function notFound(command: string): AmbitError {
  const name = printable(command, 100)
  return new AmbitError(
    'ERR_COMMAND_NOT_FOUND',
    name,
    'no such command on PATH',
    'install it, or give its path',
  )
}

function snapPackage(command: string): AmbitError {
  const name = printable(command, 100)
  return new AmbitError(
    'ERR_COMMAND_NOT_FOUND',
    name,
    'it is a snap package, which only snapd can start',
    'install it another way',
  )
}

function forbidden(path: string, reason: string): AmbitError {
  return new AmbitError(
    'ERR_PATH_FORBIDDEN',
    `agent at ${printable(path)}`,
    reason,
    'install the agent in a directory of its own',
  )
}
