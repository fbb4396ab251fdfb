/** A control group with a limit on memory: of either version, where this process may make one. */
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface MemoryGroup {
  readonly dir: string
  limit(bytes: number): void
  /** Moves a process into it. What it has already counts elsewhere. */
  take(pid: number): void
  /** Of an empty group. */
  remove(): void
}

/** Null where there is none to be had. */
export function memoryGroup(): MemoryGroup | null {
  for (const [top, file] of [
    ['/sys/fs/cgroup/memory', 'memory.limit_in_bytes'],
    ['/sys/fs/cgroup', 'memory.max'],
  ] as const) {
    const dir = join(top, `ambit-test-${process.pid}`)
    const limit = (bytes: number): void => writeFileSync(join(dir, file), String(bytes), { flag: 'r+' })
    const take = (pid: number): void => writeFileSync(join(dir, 'cgroup.procs'), String(pid))
    const remove = (): void => rmdirSync(dir)
    try {
      mkdirSync(dir)
    } catch {
      continue
    }
    try {
      limit(1 << 30)
      withoutSwap(dir)
      return { dir, limit, take, remove }
    } catch {
      // Made, but no group that limits memory.
      remove()
    }
  }
  return null
}

/** What is swapped out counts elsewhere, and a machine with swap would never reach the limit. */
function withoutSwap(dir: string): void {
  for (const file of ['memory.swap.max', 'memory.swappiness'])
    if (existsSync(join(dir, file))) writeFileSync(join(dir, file), '0', { flag: 'r+' })
}

/** Why there is none, or null. */
export const withoutGroup: string | null = probe()

function probe(): string | null {
  const group = memoryGroup()
  group?.remove()
  return group ? null : 'no control group with a limit on memory can be made here'
}
