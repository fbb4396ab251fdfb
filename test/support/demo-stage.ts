/** `ambit demo` in a given runtime, with the agent that the tests have fetched once. */
import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { AGENT } from '../../src/demo/agent.ts'
import type { DemoResult } from '../../src/demo/run.ts'
import type { RuntimeName } from '../../src/profile/plan.ts'
import { agents, installShared } from './caches.ts'
import { describe, type Stage } from './stage.ts'

/** Puts the agent where the demonstration would fetch it to. */
export function placeAgent(stage: Stage): void {
  const cache = join(stage.ambitHome, 'cache')
  mkdirSync(cache, { mode: 0o755 })
  symlinkSync(installShared(agents), join(cache, `${AGENT.command}-${AGENT.version}`))
}

/** Asserts that the work was done in that runtime and each attempt refused. */
export async function demoEndsWell(stage: Stage, runtime: RuntimeName, timeout: number): Promise<void> {
  placeAgent(stage)
  const ran = await stage.ambit(['demo', '--runtime', runtime, '--json'], { timeout })
  assert.equal(ran.code, 0, describe(ran))
  const result = JSON.parse(ran.stdout) as DemoResult
  assert.ok(result.reconciled && result.log.ok, describe(ran))
  assert.deepEqual(
    result.verdicts.map(({ outcome }) => outcome),
    Array(5).fill('refused'),
    describe(ran),
  )
  const sessions = await stage.ambit(['sessions', '--all', '--json'])
  assert.match(sessions.stdout, new RegExp(`"runtime":\\s*"${runtime}"`))
}
