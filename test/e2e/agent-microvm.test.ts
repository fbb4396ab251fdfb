/**
 * A real agent, and the host's interpreter that it needs, come into a machine through the view and start there. All of
 * its work in a machine: demo-microvm.all.test.ts.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { AGENT } from '../../src/demo/agent.ts'
import { agents, installShared } from '../support/caches.ts'
import { cannotBoot } from '../support/guest.ts'
import { machineStage } from '../support/machine-stage.ts'
import { describe } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const missing =
  (cannotBoot || (existsSync('/dev/net/tun') ? null : 'no /dev/net/tun')) ??
  (agents instanceof Error ? agents.message : null)

test('Codex from npm starts in a microvm', {
  skip: missing ?? unavailable('user') ?? false,
  timeout: 290_000,
}, async () => {
  const stage = await machineStage('user')
  const codex = join(installShared(agents), 'node_modules/.bin', AGENT.command)
  const ran = await stage.session([codex, '--version'], { timeout: 270_000 })
  assert.equal(ran.code, 0, describe(ran))
  assert.match(ran.stdout, new RegExp(`^codex-cli ${AGENT.version.replaceAll('.', '\\.')}$`, 'm'))
  assert.equal(ran.summary.runtime, 'microvm')
})
