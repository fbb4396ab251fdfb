/** A-01 of the view, killed while host and agent change the same directory: the session ends, and nothing stays behind. */
import assert from 'node:assert/strict'
import { chownSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { attack } from '../support/case.ts'
import { commandOf, eventually, processesWith } from '../support/processes.ts'
import { describe, Stage } from '../support/stage.ts'
import { account } from '../support/users.ts'

/** Four processes that make and remove files in one directory until there is no view. */
const CHURN = `
for w in 1 2 3 4; do
  (n=0; while : > busy/$w-$n && rm busy/$w-$n; do n=$(((n + 1) % 50)); done) &
done
: > busy/begun
wait
exit 3
`

const partsOf = (stage: Stage, part: string): number[] =>
  processesWith(stage.root).filter((pid) => commandOf(pid).includes(part))

attack(
  'A-01',
  'ends the session of a view that was killed while the kernel had to forget names',
  async (as) => {
    const took: number[] = []
    for (let round = 0; round < 4; round++) {
      const stage = new Stage(as, { files: { 'notes.txt': 'notes' } })
      const busy = join(stage.project, 'busy')
      mkdirSync(busy, { recursive: true })
      chownSync(busy, account(as).uid, account(as).gid)
      const running = stage.session(['/bin/sh', '-c', `cd ${stage.project}; ${CHURN}`], { timeout: 30_000 })
      assert.ok(await eventually(() => existsSync(join(busy, 'begun')), 20_000), 'control: the agent works')
      const until = Date.now() + 150 + round * 90
      for (let n = 0; Date.now() < until; n++) {
        writeFileSync(join(busy, `host-${n % 20}`), '')
        rmSync(join(busy, `host-${n % 20}`))
        if (n % 50 === 0) await sleep(1)
      }
      const [view] = partsOf(stage, 'ambit-view')
      assert.ok(view, 'control: there is a view')
      const killed = performance.now()
      process.kill(view, 'SIGKILL')
      const ran = await running
      took.push(performance.now() - killed)
      assert.equal(ran.code, 125, describe(ran))
      assert.match(ran.stderr, /view/)
      const left = (): number[] => [
        ...partsOf(stage, 'ambit-launch'),
        ...partsOf(stage, 'ambit-view'),
        ...partsOf(stage, 'busy/begun'),
      ]
      assert.ok(await eventually(() => left().length === 0), `left: ${left().map(commandOf).join(' ')}`)
    }
    assert.ok(Math.max(...took) < 15_000, `${took.map(Math.round).join(', ')} ms`)
    return 'four killed views: four ends with 125, nothing left'
  },
)
