/** Stages of a test run, known to it, for a test process that was killed cannot remove its own. */
import { appendFileSync, existsSync, readFileSync, rmSync } from 'node:fs'
import { endProcesses } from './processes.ts'

/** Environment variable with the file to which stages append where they are; set by test/run.ts. */
export const STAGES = 'AMBIT_TEST_STAGES'

export function noteStage(root: string): void {
  const file = process.env[STAGES]
  if (file) appendFileSync(file, `${root}\n`)
}

/** Ends what still runs on a stage and removes it. */
export function removeStage(root: string): void {
  endProcesses(root)
  try {
    // What was just killed may still be writing.
    rmSync(root, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })
  } catch (error) {
    // A mount that is still there is a finding for the tests of it, not a reason to hide their result.
    console.error(`could not remove ${root}: ${(error as Error).message}`)
  }
}

/** Of this run, when none of its test processes lives. */
export function removeLeftStages(): void {
  const file = process.env[STAGES]
  if (!file || !existsSync(file)) return
  for (const root of readFileSync(file, 'utf8').split('\n'))
    if (root !== '' && existsSync(root)) removeStage(root)
}
