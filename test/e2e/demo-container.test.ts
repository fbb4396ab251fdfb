/** `./ambit demo --runtime container`: a real agent does its work under gVisor's kernel. */
import { test } from 'node:test'
import { agents, installShared } from '../support/caches.ts'
import { demoEndsWell } from '../support/demo-stage.ts'
import { withoutPrograms } from '../support/programs.ts'
import { Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const missing = withoutPrograms('runsc') ?? (agents instanceof Error ? agents.message : null)
// Half a gigabyte, copied once: no part of the time.
if (!missing) installShared(agents)

for (const as of ['user', 'root'] as const)
  test(`the demonstration does its work in a container, as ${as}`, {
    skip: missing ?? unavailable(as) ?? false,
    timeout: 260_000,
  }, async () => {
    await demoEndsWell(new Stage(as), 'container', 240_000)
  })
