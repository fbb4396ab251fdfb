/**
 * The kernel's OOM killer takes the agent, or whoever supervises it, warm or cold: nothing of the session is left, one
 * line says why and what to do, the record says so too, and the next session starts as if nothing had been.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { memoryGroup, withoutGroup } from '../support/memory-group.ts'
import { commandOf, eventually, processesWith } from '../support/processes.ts'
import { describe, type SessionRan, Stage } from '../support/stage.ts'
import { runs, warmed } from '../support/runs.ts'
import { type As, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

/** Waits until it may, then takes as much as it is told. */
const HUNGRY = `
import os, sys, time
open('ready', 'w').close()
while not os.path.exists('go'): time.sleep(0.01)
taken = bytearray(int(sys.argv[1]) << 20)
print('took it')
while os.path.exists('go') and len(sys.argv) > 2: time.sleep(0.01)
`
const LIMIT = 48 << 20
const REMEDY = 'free some memory, or allow the control group that ambit runs in more'

async function prepare(as: As, warm: boolean): Promise<Stage> {
  const stage = new Stage(as, { files: { 'hungry.py': HUNGRY } })
  if (!warm) return stage
  await warmed(stage)
  return stage
}

/** Runs the agent and, once it waits, has `act` done to it and its supervisor; then it goes on. */
async function during(stage: Stage, act: (agent: number, supervisor: number) => void): Promise<SessionRan> {
  for (const name of ['ready', 'go']) rmSync(join(stage.project, name), { force: true })
  const mark = 'hungry.py\x00200'
  const running = stage.session(['/usr/bin/python3', 'hungry.py', '200', 'stay'], { timeout: 60_000 })
  assert.ok(await eventually(() => existsSync(join(stage.project, 'ready')), 20_000), 'control: it waits')
  const agent = processesWith(mark).find((pid) => commandOf(pid).startsWith('/usr/bin/python3'))
  const dir = join(stage.ambitHome, 'state/sessions')
  const newest = readdirSync(dir).toSorted().at(-1) ?? ''
  const session = JSON.parse(readFileSync(join(dir, newest, 'session.json'), 'utf8')) as { pid: number }
  assert.ok(agent, 'control: its process is there')
  act(agent, session.pid)
  writeFileSync(join(stage.project, 'go'), '')
  setTimeout(() => rmSync(join(stage.project, 'go'), { force: true }), 2000)
  return await running
}

for (const as of ['user', 'root'] as const)
  for (const warm of [false, true]) {
    const skip = unavailable(as) ?? withoutGroup ?? false
    const how = `${warm ? 'warm' : 'cold'}, as ${as}`

    test(`out of memory: the kernel ends the agent, ${how}`, { skip }, async () => {
      const stage = await prepare(as, warm)
      const group = memoryGroup()
      assert.ok(group)
      try {
        group.limit(LIMIT)
        const ran = await during(stage, (agent) => group.take(agent))
        assert.equal(ran.code, 137, describe(ran))
        assert.doesNotMatch(ran.stdout, /took it/)
        const { session, outcome, exit, reason } = ran.summary
        const words = `the kernel ended it for want of memory: ${REMEDY}`
        assert.equal(ran.stderr, `ambit: session ${session} killed: ${words}; see ambit why ${session}\n`)
        assert.deepEqual([outcome, exit, reason], ['killed', 137, words])
        const events = await stage.events(session)
        assert.ok(events.some(({ ambit }) => ambit.kind === 'session.end' && ambit.reason === words))
        const why = await stage.ambit(['why', session])
        assert.match(why.stdout, /machine\.memory\n +No limit of the profile: [^\n]+ more\.\n$/)
        const control = await during(stage, () => undefined)
        assert.deepEqual([control.code, control.stdout], [0, 'took it\n'], describe(control))
      } finally {
        assert.ok(await eventually(() => readFileSync(join(group.dir, 'cgroup.procs'), 'utf8') === ''))
        group.remove()
      }
    })

    test(`out of memory: the kernel ends the supervisor, ${how}`, { skip }, async () => {
      const stage = await prepare(as, warm)
      const group = memoryGroup()
      assert.ok(group)
      try {
        group.limit(LIMIT)
        const ran = await during(stage, (_, supervisor) => {
          group.take(supervisor)
          // Whom the kernel picks first, and somebody who has it pick.
          writeFileSync(`/proc/${supervisor}/oom_score_adj`, '1000')
          spawnSync('/bin/sh', [
            '-c',
            'echo 0 >"$0" && exec python3 -c "bytearray(100 << 20)"',
            `${group.dir}/cgroup.procs`,
          ])
        })
        assert.equal(ran.code, 125, describe(ran))
        const who = warm ? 'its host' : 'its supervisor'
        assert.equal(
          ran.stderr,
          `ambit: session: ${who} was killed by the kernel for want of memory; nothing of it runs any more; ${REMEDY}; see: ambit sessions --all [ERR_INTERNAL]\n`,
        )
        assert.ok(
          await eventually(() => processesWith('hungry.py\x00200').length === 0, 15_000),
          'it is gone',
        )
        const ends = async (): Promise<boolean> => {
          const events = await stage.events()
          return events.some(
            ({ ambit }) =>
              ambit.kind === 'session.end' &&
              /died without a word; .* for want of memory$/.test(ambit.reason ?? ''),
          )
        }
        assert.ok(await eventually(ends, 15_000), 'the record says why')
        await runs(stage)
      } finally {
        assert.ok(await eventually(() => readFileSync(join(group.dir, 'cgroup.procs'), 'utf8') === ''))
        group.remove()
      }
    })
  }
