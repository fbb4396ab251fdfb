/** The same as lockstep.test.ts for minutes, with seeds that nobody has seen. */
import { test } from 'node:test'
import { cannotRun } from './harness.ts'
import { lockstep } from './lockstep.ts'

const START = Date.now() % 2 ** 31

for (const access of ['write', 'review'] as const)
  for (const part of Array(6).keys())
    test(
      `open files and names answer as in a plain directory (${access}, from seed ${START + part * 1000})`,
      {
        skip: cannotRun,
      },
      () => lockstep(access, START + part * 1000, 60, 120),
    )
