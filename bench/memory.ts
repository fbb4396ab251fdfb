/** What processes hold of this machine's memory, counted as if nothing else ran on it. */
import { readdirSync, readFileSync } from 'node:fs'

/** The processes and all that descend from them. */
export function familyOf(roots: readonly number[]): readonly number[] {
  const family = new Set(roots)
  const all = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const parents = all.map((name) => [Number(name), parentOf(name)] as const)
  for (let before = 0; before < family.size; ) {
    before = family.size
    for (const [pid, parent] of parents) if (family.has(parent)) family.add(pid)
  }
  return [...family]
}

function parentOf(pid: string): number {
  const stat = read(`/proc/${pid}/stat`)
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] ?? -1)
}

/** Empty for a process that has gone. @throws Error where it may not be looked at. */
export function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return ''
    throw error
  }
}

/** One mapping of a process; numbers are bytes. */
export interface Mapping {
  readonly pid: number
  /** Device and inode; null for memory that is no file's. */
  readonly file: string | null
  readonly size: number
  /** Its share: a page that N processes have counts 1/N. */
  readonly share: number
  readonly own: number
  readonly shared: number
}

export const mappingsOf = (pid: number): readonly Mapping[] =>
  read(`/proc/${pid}/smaps`)
    .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    .filter((text) => text !== '')
    .map((text) => mapping(pid, text))

function mapping(pid: number, text: string): Mapping {
  const [, , , device, inode] = text.slice(0, text.indexOf('\n')).split(/ +/)
  const bytes = (key: string): number =>
    Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0) * 1024
  return {
    pid,
    file: inode === '0' ? null : `${device} ${inode}`,
    size: bytes('Size'),
    share: bytes('Pss'),
    own: bytes('Private_Clean') + bytes('Private_Dirty'),
    shared: bytes('Shared_Clean') + bytes('Shared_Dirty'),
  }
}

/**
 * Bytes of all these together. Pages of a file (a program, a library) count once and in full, whoever else has mapped
 * them: beside a second one of its kind, a program would seem to take half of itself.
 */
export function held(mappings: readonly Mapping[]): number {
  const files = new Map<string, Map<number, number>>()
  let total = 0
  for (const { pid, file, share, own, shared } of mappings) {
    total += file === null ? share : own
    if (file === null) continue
    const of = files.get(file) ?? new Map<number, number>()
    files.set(file, of.set(pid, (of.get(pid) ?? 0) + shared))
  }
  for (const of of files.values()) total += Math.max(...of.values())
  return total
}
