/**
 * A machine has its image's system. What of a closure lies in the system's directories here and is not in the image
 * (`/usr/bin/node`, a package in `/usr/lib/node_modules`) has to come along, to the same place.
 */
import { basename } from 'node:path'
import type { Agent } from '../closure.ts'
import { ownLibraries } from './elf.ts'
import { isWithin } from './guard.ts'
import { head, isElf } from './shebang.ts'

/** A program of a closure that lies in the system's directories. */
export interface SystemProgram {
  readonly seen: string
  /** Real path, free of links. */
  readonly real: string
  /** Its package, where it has one. */
  readonly trees: readonly string[]
}

/**
 * The agent as a machine must be shown it. `programs`: path in the image → digest. `bin`: the directory of links.
 *
 * Libraries of the system's own directories do not come along: a program that needs one that the image lacks says so.
 */
export function inMachine(agent: Agent, programs: Readonly<Record<string, string>>, bin: string): Agent {
  const brought = agent.system.filter((program) => !isInImage(program, programs))
  if (brought.length === 0) return agent
  const paths = [...agent.mounts.map(({ path }) => path), ...brought.flatMap(partsOf)]
  const links = brought.map(({ seen, real }) => ({ name: basename(seen), target: real }))
  const own = brought.some(({ real }) => real === agent.executable)
  return {
    ...agent,
    mounts: outermost(paths).map((path) => ({ path })),
    links: [...agent.links, ...links],
    argv0: own ? `${bin}/${links.find(({ target }) => target === agent.executable)?.name}` : agent.argv0,
  }
}

/** The same file by its path, or another version by its name: Debian's `python3` is a link to `python3.11`. */
function isInImage({ seen, real }: SystemProgram, programs: Readonly<Record<string, string>>): boolean {
  const name = basename(seen)
  const isVersionOf = (path: string): boolean =>
    /^\/usr\/s?bin\//.test(path) &&
    basename(path).startsWith(name) &&
    /^[-.\d]*$/.test(basename(path).slice(name.length))
  return real in programs || Object.keys(programs).some(isVersionOf)
}

function partsOf({ real, trees }: SystemProgram): string[] {
  return [...trees, real, ...(isElf(head(real, 4)) ? ownLibraries(real) : [])]
}

/** Those that no other one contains. */
export function outermost(paths: readonly string[]): string[] {
  const all = [...new Set(paths)].sort()
  return all.filter((path) => !all.some((other) => other !== path && isWithin(path, other)))
}
