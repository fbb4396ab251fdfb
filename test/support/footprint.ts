/** What a running session costs its machine, read from /proc: for tests that nothing of it grows. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

export interface Footprint {
  readonly rssKiB: number
  readonly fds: number
}

/** Of one process; zeros when it has ended. */
export function footprintOf(pid: number): Footprint {
  try {
    const rss = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return { rssKiB: Number(rss ?? 0), fds: readdirSync(`/proc/${pid}/fd`).length }
  } catch {
    return { rssKiB: 0, fds: 0 }
  }
}

/** Bytes of all files below `dir`. */
export function sizeBelow(dir: string): number {
  return readdirSync(dir, { withFileTypes: true }).reduce((sum, entry) => {
    const path = join(dir, entry.name)
    if (entry.isDirectory()) return sum + sizeBelow(path)
    return sum + (statSync(path, { throwIfNoEntry: false })?.size ?? 0)
  }, 0)
}

/** Lines of this mount namespace's table. */
export const mountCount = (): number => readFileSync('/proc/self/mountinfo', 'utf8').split('\n').length
