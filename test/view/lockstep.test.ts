import { constants } from 'node:fs'
import { test } from 'node:test'
import { cannotRun } from './harness.ts'
import { lockstep, type Step } from './lockstep.ts'

const OPEN = constants.O_RDWR | constants.O_NONBLOCK

const twoNames: Step[] = [
  ['link', 'a', 'c'],
  ['open', 0, 'c', OPEN, 0],
  ['stat', 'a'],
]
const changes: Step[] = [
  ['stat', 'a'],
  ['write', 0, 100],
  ['stat', 'a'],
  ['fchmod', 0, 0o600],
  ['stat', 'a'],
  ['chmod', 'a', 0o640],
  ['fstat', 0],
]

/** An open file loses its name and has another one left: each shows at once what the other changes. */
const SURVIVED: Step[][] = [
  [...twoNames, ['unlink', 'c'], ...changes],
  [...twoNames, ['rename', 'b', 'c'], ...changes],
  [...twoNames, ['unlink', 'c'], ['fstat', 0], ['unlink', 'a'], ['fstat', 0]],
  // Both names go, both files stay open.
  [
    ...twoNames,
    ['open', 1, 'a', OPEN, 0],
    ['unlink', 'a'],
    ['unlink', 'c'],
    ['fstat', 1],
    ['write', 0, 9],
    ['fstat', 1],
  ],
]

for (const access of ['write', 'review'] as const)
  test(`open files and names answer as in a plain directory (${access})`, { skip: cannotRun }, () =>
    lockstep(access, 1, 15, 60, SURVIVED),
  )
