import assert from 'node:assert/strict'
import { constants } from 'node:fs'
import { test } from 'node:test'
import { cannotRun, inView, makeWorld } from './harness.ts'
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

test('the digest of what was read does not move the time of the last read', {
  skip: cannotRun,
}, async (t) => {
  const names = Array.from({ length: 20 }, (_, n) => `f${n}`)
  const world = makeWorld([
    { access: 'write', files: Object.fromEntries(names.map((name) => [name, 'x'.repeat(200_000)])) },
  ])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
import time
paths = ['0/f%d' % n for n in range(${names.length})]
for path in paths:
    with open(path, 'ab') as file: file.write(b'y')
    with open(path) as file: file.read()
    os.utime(path, (1_000_000_000, 1_500_000_000))
time.sleep(0.5)
result['moved'] = [path for path in paths if os.stat(path).st_atime != 1_000_000_000]
`,
  )
  assert.deepEqual(result.moved, [])
})
