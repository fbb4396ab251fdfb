/**
 * No more memory for one part of a session, in the middle of its work (RLIMIT_AS, RLIMIT_DATA: what a full machine or a
 * limit of the organisation does to it). The part dies or makes do; nothing opens, nothing acknowledged is lost, one
 * line says why, and the next session starts as if nothing had been.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { mountCount } from '../support/footprint.ts'
import { commandOf, daemonsOf, eventually, processesWith } from '../support/processes.ts'
import { describe, type SessionRan, Stage } from '../support/stage.ts'
import { runs, warmed } from '../support/runs.ts'
import { type As, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

const FILES = 6000
/** Writes, and says what was written; each round asks the view for names that it has to keep. */
const AGENT = `
import os, subprocess, sys, time
home, space, keep = os.getcwd(), sys.argv[1], []
end = time.time() + 3
for n in range(100000):
    name = 'wrote-%d' % n
    with open(os.path.join(space, name), 'w') as file: file.write('x' * 4096)
    print('wrote', name, flush=True)
    if n == 3:
        open(os.path.join(space, 'ready'), 'w').close()
        while not os.path.exists(os.path.join(space, 'go')): time.sleep(0.01)
    if n > 3 and n % 20 == 0:
        subprocess.run(['/bin/true'])
        many = os.path.join(home, 'many', '%d' % (n // 20 % 100))
        if os.path.isdir(many): keep += [os.open(os.path.join(many, one), os.O_RDONLY) for one in os.listdir(many)[:100]]
        for one in os.listdir(many) if os.path.isdir(many) else []: os.stat(os.path.join(many, one))
    if time.time() > end: break
`

/** Gives a process no more memory than it has, or all again. The hard limit stays. */
async function limit(stage: Stage, pid: number, bytes: '1' | 'unlimited'): Promise<void> {
  const ran = await stage.command(['prlimit', '--pid', String(pid), `--as=${bytes}:`, `--data=${bytes}:`])
  assert.equal(ran.code, 0, describe(ran))
}

/** Each with how its process is found. */
const VICTIMS = {
  'the session host, and the gate in it': supervisorOf,
  'ambit run, and the gate in it': supervisorOf,
  'the view': (stage: Stage) =>
    processesWith(stage.ambitHome).find((pid) => commandOf(pid).includes('ambit-view\0')),
  ambitd: (stage: Stage) => daemonsOf(stage)[0],
} as const

function supervisorOf(stage: Stage): number | undefined {
  const dir = join(stage.ambitHome, 'state/sessions')
  const newest = readdirSync(dir).toSorted().at(-1) ?? ''
  return (JSON.parse(readFileSync(join(dir, newest, 'session.json'), 'utf8')) as { pid: number }).pid
}

async function prepare(as: As): Promise<Stage> {
  const stage = new Stage(as, {
    files: { 'agent.py': AGENT },
    spec: {
      files: [
        { path: '${project}', access: 'read' },
        { path: '${workspace}', access: 'write' },
      ],
    },
  })
  mkdirSync(stage.workspace)
  for (let n = 0; n < 100; n++) mkdirSync(join(stage.project, 'many', String(n)), { recursive: true })
  for (let n = 0; n < FILES; n++)
    writeFileSync(join(stage.project, 'many', String(n % 100), `${'name'.repeat(20)}-${n}`), '')
  stage.own()
  await warmed(stage)
  return stage
}

const written = (ran: SessionRan): string[] =>
  [...ran.stdout.matchAll(/^wrote (\S+)$/gm)].map(([, name]) => name ?? '')

async function checkAfter(stage: Stage, ran: SessionRan, mounts: number): Promise<void> {
  const left = (): number[] =>
    processesWith(stage.root).filter((pid) => !/ambitd\.cjs|session-host/.test(commandOf(pid)))
  assert.ok(await eventually(() => left().length === 0, 15_000), `left: ${left().map(commandOf).join('; ')}`)
  assert.ok(mountCount() <= mounts, 'something is still mounted')
  await runs(stage)
  const verified = await stage.ambit(['log', 'verify'])
  assert.equal(verified.code, 0, describe(verified))
  const events = await stage.events()
  const paths = new Set(
    events.filter((event) => event.ambit.kind === 'file.write').map((event) => event.file.path),
  )
  for (const name of written(ran))
    assert.ok(paths.has(join(stage.workspace, name)), `${name} is not in the log`)
}

for (const as of ['user', 'root'] as const)
  for (const [name, pidOf] of Object.entries(VICTIMS))
    test(`no memory left for ${name}, as ${as}`, { skip: unavailable(as) ?? false }, async (t) => {
      const stage = await prepare(as)
      const mounts = mountCount()
      const ready = join(stage.workspace, 'ready')
      const cold = name.startsWith('ambit run')
      const running = stage.session(['/usr/bin/python3', 'agent.py', stage.workspace], {
        timeout: 60_000,
        // What the C library reads at its start is no matter for a process that runs already.
        env: cold ? { MALLOC_ARENA_MAX: '2' } : {},
      })
      assert.ok(await eventually(() => existsSync(ready), 20_000), 'control: the agent works')
      const victim = pidOf(stage)
      assert.ok(victim, 'control: it is there')
      // On a busy machine a session may find no host that waits.
      const alone = victim === supervisorOf(stage) && !/session-host/.test(commandOf(victim))
      if (cold) assert.ok(alone, 'control: a cold start')
      await limit(stage, victim, '1')
      writeFileSync(join(stage.workspace, 'go'), '')
      const ran = await running
      t.diagnostic(`the session ended with ${ran.code ?? ran.signal}`)
      // A session goes on beside a new daemon, and where the memory was enough.
      if (ran.code !== 0) {
        assert.equal(ran.code, 125, describe(ran))
        assert.match(ran.stderr, /^ambit: [^\n]+\n$/, describe(ran))
      }
      assert.ok(written(ran).length >= 4)
      if (/ambit/.test(commandOf(victim))) await limit(stage, victim, 'unlimited')
      rmSync(ready)
      await checkAfter(stage, ran, mounts)
    })
