/** `./ambit demo --runtime container`: a real agent does its work under gVisor's kernel. */
import { test } from 'node:test'
import { agents } from '../support/caches.ts'
import { demoEndsWell } from '../support/demo-stage.ts'
import { withoutPrograms } from '../support/programs.ts'
import { Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const missing = withoutPrograms('runsc') ?? (agents instanceof Error ? agents.message : null)

for (const as of ['user', 'root'] as const)
  test(`the demonstration does its work in a container, as ${as}`, {
    skip: missing ?? unavailable(as) ?? false,
    timeout: 140_000,
  }, async () => {
    await demoEndsWell(new Stage(as), 'container', 130_000)
  })
