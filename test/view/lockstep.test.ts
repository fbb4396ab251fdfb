import { test } from 'node:test'
import { cannotRun } from './harness.ts'
import { lockstep } from './lockstep.ts'

for (const access of ['write', 'review'] as const)
  test(`open files and names answer as in a plain directory (${access})`, { skip: cannotRun }, () =>
    lockstep(access, 1, 15, 60),
  )
