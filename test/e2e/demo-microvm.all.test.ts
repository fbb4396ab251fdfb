/**
 * `./ambit demo --runtime microvm`: a real agent does its work in a machine, shown to it through the view; as the
 * ordinary user. For --all: without KVM it takes a minute of two processors, and beside other work more than the five
 * that a file of every run has. There, agent-microvm.test.ts starts the same agent.
 */
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { agents } from '../support/caches.ts'
import { demoEndsWell } from '../support/demo-stage.ts'
import { cannotBoot } from '../support/guest.ts'
import { placeImage } from '../support/machine-stage.ts'
import { Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const missing =
  (cannotBoot || (existsSync('/dev/net/tun') ? null : 'no /dev/net/tun')) ??
  (agents instanceof Error ? agents.message : null)

test('the demonstration does its work in a microvm', {
  skip: missing ?? unavailable('user') ?? false,
  timeout: 900_000,
}, async () => {
  const stage = new Stage('user')
  await placeImage(stage)
  await demoEndsWell(stage, 'microvm', 700_000)
})
