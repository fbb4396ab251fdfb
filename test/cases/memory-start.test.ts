/** Starts where there is too little memory for one: one line says why and what to do, and nothing is left. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { memoryGroup, withoutGroup } from '../support/memory-group.ts'
import { endProcesses, eventually } from '../support/processes.ts'
import { describe, type Ran, Stage } from '../support/stage.ts'
import { runs } from '../support/runs.ts'
import { unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())
const user = { skip: unavailable('user') ?? false }

test('a limit on memory that nothing can start under', user, async () => {
  const stage = new Stage('user')
  const limited = (limit: string): Promise<Ran> =>
    stage.command([
      'prlimit',
      limit,
      stage.product.ambit,
      ...stage.run(['/bin/echo', 'it-ran'], stage.profile()),
    ])
  for (const warm of [false, true]) {
    if (warm) await runs(stage)
    const space = await limited(`--as=${500 << 20}`)
    const data = await limited(`--data=${100 << 20}`)
    for (const [ran, line] of [
      [space, /^ambit: the limit on virtual memory is 500 MiB, .*: allow 1900 MiB or more \(ulimit -v\)\n$/],
      [data, /^ambit: the limit on a program's data is 100 MiB, .*: allow 700 MiB or more \(ulimit -d\)\n$/],
    ] as const) {
      assert.equal(ran.code, 125, describe(ran))
      assert.match(ran.stderr, line)
    }
  }
  await runs(stage)
})

test('no memory left for a session in its control group', { skip: withoutGroup ?? false }, async () => {
  const group = memoryGroup()
  assert.ok(group)
  const members = (): string => readFileSync(join(group.dir, 'cgroup.procs'), 'utf8')
  const stage = new Stage('root')
  try {
    const confined = (args: readonly string[]): Promise<Ran> =>
      stage.command(['/bin/sh', '-c', 'echo 0 >"$0/cgroup.procs" && exec "$@"', group.dir, ...args])
    const start = [stage.product.ambit, ...stage.run(['/bin/echo', 'it-ran'], stage.profile())]
    group.limit(40 << 20)
    const ran = await confined(start)
    assert.equal(ran.code, 125, describe(ran))
    assert.match(
      ran.stderr,
      /^ambit: the control group "[^\n]*" has \d+ MiB of memory left, too little for a session: free some, [^\n]+\n$/,
    )
    assert.equal(members(), '', 'nothing is left in it')
    group.limit(512 << 20)
    const control = await confined(start)
    assert.equal(control.stdout, 'it-ran\n', describe(control))
  } finally {
    endProcesses(stage.root)
    await eventually(() => members() === '', 10_000)
    group.remove()
  }
})
