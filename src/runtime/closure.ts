import { existsSync, lstatSync, readlinkSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { AmbitError } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import { adapterFor } from './agents.ts'
import { digestCache, measureTrees } from './closure/digest.ts'
import { isWithin } from './closure/guard.ts'
import { outermost, type SystemProgram } from './closure/machine.ts'
import { locate, type Lookup } from './closure/locate.ts'
import { interpretersOf, isInRoot, type Program, programAt, type Surroundings } from './closure/program.ts'
import { shownTrees } from './closure/shown-trees.ts'
import { isSystem, type Tree } from './closure/trees.ts'

export type { Surroundings } from './closure/program.ts'

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
  /** Those of its programs that lie in the system's directories, which a machine does not share. */
  readonly system: readonly SystemProgram[]
  /** Directories for PATH inside, first one first. */
  readonly pathDirs: readonly string[]
  /** SHA-256, hex, over the package trees and interpreters; null where they lie in the session's own roots or are too large. */
  readonly digest: string | null
  /** For the grant sheet: what is switched off in the program, and where it is shown from. */
  readonly notes: readonly string[]
}

/**
 * Finds `command` and everything it needs. Reads files, runs nothing.
 *
 * Throws ERR_COMMAND_NOT_FOUND, or ERR_PATH_FORBIDDEN when it lies where no closure may reach.
 */
export function resolveAgent(command: string, around: Surroundings): Agent {
  const lookup: Lookup = { path: around.env.PATH ?? '', cwd: around.cwd, env: around.env }
  const found = locate(command, lookup)
  if (!found) throw notFound(command, around.cwd)
  const main = programAt(found, around)
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
    system: programs.filter(({ real }) => isSystem(real)).map(systemProgram),
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

const systemProgram = ({ seen, real, trees }: Program): SystemProgram => ({
  seen,
  real,
  trees: trees.filter(({ kind }) => kind !== 'system').map(({ path }) => path),
})

/** Parts of a tree that are mounted: all of it, but of a Homebrew prefix not `var` and only some of `etc`. */
function mountPaths(tree: Tree): string[] {
  if (tree.kind !== 'brew') return [tree.path]
  const parts = ['Cellar', 'opt', 'bin', 'lib', 'libexec', 'share', 'etc/openssl@3', 'etc/ca-certificates']
  return parts.map((part) => `${tree.path}/${part}`).filter((path) => existsSync(path))
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
  if (programs.some((program) => isInRoot(program.real, around))) return null
  const paths = [
    ...programs.map((program) => program.real),
    ...trees.flatMap((tree) => tree.measured ?? [tree.path]),
  ]
  return measureTrees(outermost(paths), digestCache(around.cache))
}

function notFound(command: string, cwd: string): AmbitError {
  const name = printable(command, 100)
  const say = (why: string, help: string): AmbitError =>
    new AmbitError('ERR_COMMAND_NOT_FOUND', name, why, help)
  if (!command.includes('/')) return say('no such command on PATH', 'install it, or give its path')
  return existsSync(resolve(cwd, command))
    ? say('is no program that can be run', 'chmod +x it, or start it by its interpreter')
    : say('there is no such file', `paths are relative to ${printable(cwd, 200)}`)
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
