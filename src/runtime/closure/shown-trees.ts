import { realpathSync } from 'node:fs'
import { AmbitError } from '../../lib/errors.ts'
import { printable } from '../../lib/printable.ts'
import { ownLibraries } from './elf.ts'
import { isWithin, refuseMount } from './guard.ts'
import { isInRoot, type Program, type Surroundings } from './program.ts'
import { head, isElf } from './shebang.ts'
import { boundSockets } from './sockets.ts'
import { isSystem, type Tree } from './trees.ts'

/** The trees of one program that have to be mounted: not the system's, not those that the view shows. */
export function shownTrees(program: Program, around: Surroundings): Tree[] {
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

/** A read-only mount does not keep anybody from connecting to a socket under it (C-42). */
function socketIn(path: string): string | null {
  return boundSockets().some((socket) => isWithin(socket, path))
    ? 'a program listens on a socket in it'
    : null
}

function forbidden(path: string, reason: string): AmbitError {
  return new AmbitError(
    'ERR_PATH_FORBIDDEN',
    `agent at ${printable(path)}`,
    reason,
    'install the agent in a directory of its own',
  )
}
