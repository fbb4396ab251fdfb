/** Watches how much memory the processes of a stage ever had at once in one process. */
import { readFileSync } from 'node:fs'
import { commandOf, processesWith } from './processes.ts'

/** MiB of the largest process of Ambit's own on the stage while `run` ran, and what it resolved with. */
export async function withPeak<T>(marker: string, run: () => Promise<T>): Promise<{ value: T; mib: number }> {
  let most = 0
  const timer = setInterval(() => (most = Math.max(most, peakOf(marker))), 100)
  try {
    return { value: await run(), mib: most }
  } finally {
    clearInterval(timer)
  }
}

/** MiB that the largest process of Ambit's own on the stage ever had. */
export function peakOf(marker: string): number {
  const own = processesWith(marker).filter((pid) =>
    /ambit(?:d|-main)?\.cjs|ambit-(?:view|launch)/.test(commandOf(pid)),
  )
  return Math.max(0, ...own.map(highWater)) >> 10
}

/** KiB; the kernel keeps the highest, so that a look now and then suffices. */
function highWater(pid: number): number {
  try {
    return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0)
  } catch {
    // It ended between the listing and the look.
    return 0
  }
}
