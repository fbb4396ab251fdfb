/** Whether the kernel ends processes because there is no more memory. */
import { readFileSync } from 'node:fs'

/**
 * How many the kernel has ended for want of memory since it started, on this machine or in any control group of it; 0
 * where it does not say. That a process was ended by SIGKILL and that this number grew meanwhile is all there is to be
 * seen from outside.
 */
export function oomKills(): number {
  try {
    return Number(/^oom_kill (\d+)$/m.exec(readFileSync('/proc/vmstat', 'latin1'))?.[1] ?? 0)
  } catch {
    return 0
  }
}

/** The words by which a record of it is known. */
export const OUT_OF_MEMORY = 'for want of memory'
/** What a person can do about it. */
export const MEMORY_REMEDY = 'free some memory, or allow the control group that ambit runs in more'
