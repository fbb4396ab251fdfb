/** That the product works on a stage: before a fault, and after it. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { eventually } from './processes.ts'
import { describe, type Stage } from './stage.ts'

/** A session runs, and ends well. */
export async function runs(stage: Stage): Promise<void> {
  const ran = await stage.session(['/bin/echo', 'it-ran'])
  assert.equal(ran.stdout, 'it-ran\n', describe(ran))
  assert.equal(ran.code, 0, describe(ran))
}

/** A session has run, and a host waits for the next, as it does for a person's second command. */
export async function warmed(stage: Stage): Promise<void> {
  await runs(stage)
  const waits = (): boolean => existsSync(join(stage.ambitHome, 'run/session.sock'))
  assert.ok(await eventually(waits, 20_000), 'control: a host waits')
}
