/** Processes of a test, found by a marker in their environment or arguments that nothing else on the machine has. */
import { readdirSync, readFileSync } from 'node:fs'

/** Host pids whose environment or command line holds `marker`. */
export function processesWith(marker: string): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => holds(pid, 'environ', marker) || holds(pid, 'cmdline', marker))
    .map(Number)
}

/** The command line of a process, its words ended by NUL; empty when it is gone. */
export function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1')
  } catch {
    return ''
  }
}

/** Host pids of the daemon of a stage, or of other processes that its state directory keeps running. */
export const daemonsOf = ({ ambitHome }: { readonly ambitHome: string }, what = /ambitd\.cjs/): number[] =>
  processesWith(ambitHome).filter((pid) => what.test(commandOf(pid)))

/** Kills them, each by its pid. */
export function endProcesses(marker: string): void {
  for (const pid of processesWith(marker)) kill(pid)
}

/** One that is gone between the listing and the signal is what was wanted. */
export function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function holds(pid: string, file: 'environ' | 'cmdline', marker: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1').includes(marker)
  } catch {
    // Another user's process, or one that just ended.
    return false
  }
}

/** Waits until `check` holds; false when it does not within `ms`. */
export async function eventually(check: () => boolean | Promise<boolean>, ms = 20_000): Promise<boolean> {
  const deadline = Date.now() + ms
  while (Date.now() < deadline) {
    if (await check()) return true
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return await check()
}
