import { lstatSync, readlinkSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { AmbitError } from '../../lib/errors.ts'
import { printable } from '../../lib/printable.ts'
import { type Bounds, isWithin } from './guard.ts'
import { isProgram, locate, type Lookup } from './locate.ts'
import { head, type Interpreter, parseShebang } from './shebang.ts'
import { type Tree, treesOf } from './trees.ts'

/** Where and for whom an agent is resolved. */
export interface Surroundings extends Bounds {
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
  /** Directory for cached digests. */
  readonly cache: string
}

/** One file that the kernel will execute: the command itself, then its interpreters. */
export interface Program {
  readonly seen: string
  readonly real: string
  readonly trees: readonly Tree[]
  /** Reached by way of a root of the session: the agent may have written what led here. */
  readonly foreign: boolean
}

/** The program at `seen`. `chosen`: something in a root named it. */
export function programAt(seen: string, around: Surroundings, chosen = false): Program {
  const real = realpathSync(seen)
  const foreign = chosen || [...linksOnTheWay(seen), real].some((place) => isInRoot(place, around))
  return { seen, real, trees: treesOf(real, seen), foreign }
}

/** Where each link that leads from `path` to the file itself really lies: of directories as well as of the file. */
function linksOnTheWay(path: string): string[] {
  const links: string[] = []
  const rest = path.split('/').filter((part) => part !== '' && part !== '.')
  let at = '/'
  for (let part = rest.shift(); part !== undefined && links.length < 40; part = rest.shift()) {
    const next = part === '..' ? dirname(at) : join(at, part)
    if (part !== '..' && lstatSync(next).isSymbolicLink()) {
      links.push(next)
      const target = readlinkSync(next)
      if (target.startsWith('/')) at = '/'
      rest.unshift(...target.split('/').filter((part) => part !== '' && part !== '.'))
    } else at = next
  }
  return links
}

/** True for what the view shows. */
export const isInRoot = (path: string, around: Surroundings): boolean =>
  around.roots.some((root) => isWithin(path, root))

/** The interpreter, its interpreter, and so on; the kernel follows at most four. */
export function interpretersOf(main: Program, lookup: Lookup, around: Surroundings): Program[] {
  const programs: Program[] = []
  for (let script = main; programs.length < 4; ) {
    const interpreter = parseShebang(head(script.real))
    if (!interpreter) break
    const path = interpreterPath(interpreter, lookup, around)
    // A script that the agent may have written chooses its interpreter's path, but not what PATH finds.
    script = programAt(path, around, script.foreign && 'path' in interpreter)
    programs.push(script)
  }
  return programs
}

function interpreterPath(interpreter: Interpreter, lookup: Lookup, around: Surroundings): string {
  // A name is looked up outside the session's roots: what lies there is the agent's to replace.
  const path = lookup.path
    .split(':')
    .filter((dir) => !isInRoot(dir, around))
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
