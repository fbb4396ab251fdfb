/**
 * `./ambit demo --runtime microvm`: a real agent does its work in a machine, shown to it through the view. Without KVM a
 * minute where it has two processors to itself; as the ordinary user, since what root is in a machine is the cases' matter.
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
  timeout: 295_000,
}, async () => {
  const stage = new Stage('user')
  await placeImage(stage)
  await demoEndsWell(stage, 'microvm', 280_000)
})
