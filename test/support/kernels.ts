/**
 * The host's side of a session with a kernel of its own: its processes are none of the host's, but the kernel's are,
 * Sentry and Gofer or QEMU, and when those are gone nothing inside lives.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { processesWith } from './processes.ts'
import { RUNTIME } from './runtime.ts'
import type { Stage } from './stage.ts'

const KERNEL = /^(runsc-(sandbox|gofer)|\S*qemu-system-\S*)\0/

/** A machine's TPM. */
const TPM = /^\S*swtpm\0/

/** Host pids of the kernels of a stage's sessions, while the session's own processes stand above them. */
export const kernelsOf = (stage: Pick<Stage, 'root'>): readonly number[] => programsBelow(stage, KERNEL)

/** The same, and a machine's TPM: what an agent that broke its kernel would stand beside. */
export const kernelsAndTpmsOf = (stage: Pick<Stage, 'root'>): readonly number[] => [
  ...kernelsOf(stage),
  ...programsBelow(stage, TPM),
]

function programsBelow({ root }: Pick<Stage, 'root'>, program: RegExp): readonly number[] {
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && program.test(read(pid, 'cmdline')))
    .filter((pid) => isBelow(pid, root))
    .map(Number)
}

/** What of a session runs on the host: each process that holds `mark`, or the kernels in which they run. */
export const population = (stage: Stage, mark: string): readonly number[] =>
  RUNTIME === 'os-sandbox' ? processesWith(mark) : kernelsOf(stage)

/** True for those that neither live nor became another program. */
export const areGone = (kernels: readonly number[]): boolean =>
  !kernels.some((pid) => KERNEL.test(read(String(pid), 'cmdline')))

/** A process of a cell has no path of the stage in it; one of those above it does. */
function isBelow(pid: string, root: string): boolean {
  for (let at = pid; at !== '' && at !== '0'; at = /^PPid:\t(\d+)$/m.exec(read(at, 'status'))?.[1] ?? '')
    if (read(at, 'cmdline').includes(root)) return true
  return false
}

function read(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1')
  } catch {
    return '' // gone, or another user's
  }
}
