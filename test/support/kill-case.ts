/** Kill cases on one stage for each kind of user, so that each kill also follows the ones before it. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { once } from './case.ts'
import { HeldAnswers, killOnce, type Step, type Victim } from './kill-matrix.ts'
import { attack, goodHost } from './net-stage.ts'
import { Stage } from './stage.ts'
import type { As } from './users.ts'

/** Requests of agents that wait for their answer until the kill is done: they are in flight as long as it takes. */
const held = new HeldAnswers()

const world = once(async () => {
  const { good } = await goodHost(({ url }, response) => held.ask(url, () => response.end('hello')))
  return good
})

const stageOf = once(async (as: As) => {
  const good = await world(null)
  const stage = new Stage(as)
  writeFileSync(join(stage.root, 'ca.pem'), good.ca, { mode: 0o644 })
  return stage
})

let kills = 0

/** Declares one case of several kills in turn. */
export function killCase(pairs: readonly (readonly [Step, Victim])[]): void {
  const title = pairs.map(([step, victim]) => `${victim} at ${step}`).join(', ')
  attack('A-01', `keeps every record when killed: ${title}`, async (as) => {
    const stage = await stageOf(as)
    const spec = { network: [{ host: 'good.test', ca: join(stage.root, 'ca.pem') }] }
    const done: string[] = []
    for (const [step, victim] of pairs) {
      const mark = `kill-${process.pid}-${++kills}`
      const { hit, acknowledged } = await killOnce(
        stage,
        { good: await world(null), held },
        spec,
        mark,
        step,
        victim,
      )
      done.push(`${victim} at ${step}${hit ? '' : ' (had ended)'}: ${acknowledged} acknowledged`)
    }
    assert.ok(
      done.some((line) => !line.includes('had ended')),
      `nothing was killed: ${done.join('; ')}`,
    )
    return `${pairs.length} kills, nothing lost`
  })
}
