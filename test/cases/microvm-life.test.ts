/** A machine's terminal, clock, signals, orders and end: as in the other runtimes. One boot for what one boot can tell. */
import assert from 'node:assert/strict'
import { cpSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { once } from '../support/case.ts'
import { machineStage } from '../support/machine-stage.ts'
import { commandOf, eventually, processesWith } from '../support/processes.ts'
import { withoutPrograms } from '../support/programs.ts'
import { withoutRuntime } from '../support/runtime.ts'
import { describe, type SessionRan, type Stage } from '../support/stage.ts'
import type { As } from '../support/users.ts'

const missing = withoutRuntime('microvm')
const sh = (script: string): string[] => ['/bin/sh', '-c', script]

const terminal = once(async (as: As): Promise<Record<string, true | string>> => {
  const stage = await machineStage(as, {
    files: { 'secret.txt': 'the content that is taken away', 'other.txt': 'the rest' },
  })
  for (const file of ['machine_terminal.py', 'terminal_driver.py'])
    cpSync(join(import.meta.dirname, '../support', file), join(stage.outside, basename(file)))
  stage.own()
  const { ambit } = stage.product
  const run = [ambit, ...stage.run(['bash', '--norc', '-i'], stage.profile())]
  const argv = ['python3', join(stage.outside, 'machine_terminal.py'), ambit, ...run]
  const ran = await stage.command(argv, { env: { TERM: 'xterm-256color' }, timeout: 400_000 })
  assert.equal(ran.code, 0, describe(ran))
  return JSON.parse(ran.stdout) as Record<string, true | string>
})

for (const name of [
  'size',
  'resized',
  'window change signal',
  'ctrl-z',
  'bg',
  'fg and ctrl-c',
  'status of an interrupted job',
  'end of file',
  "a signal's status",
  'no clipboard, no title',
  'clock',
  'it runs',
  'frozen',
  'thawed',
  'clock after a freeze',
  'before it is taken',
  'narrowed',
  'taken by name',
  'taken by handle',
  'the rest stays',
  'killed by a signal',
])
  test(`microvm terminal: ${name}`, { skip: missing ?? withoutPrograms('python3') ?? false }, async () => {
    assert.equal((await terminal('user'))[name], true)
  })

interface Up {
  readonly stage: Stage
  readonly pid: number
  readonly id: string
  readonly running: Promise<SessionRan>
  /** What was there while it ran and is now. */
  left(): string[]
}

/** A machine whose command has begun. */
async function start(script: string): Promise<Up> {
  const stage = await machineStage('user')
  let pid = 0
  const running = stage.session(sh(`echo up > up; ${script}`), {
    onStart: (started) => (pid = started),
    timeout: 180_000,
  })
  assert.ok(await eventually(() => readdirSync(stage.project).includes('up'), 120_000), 'control: it runs')
  const known = family(pid).filter((one) => !isDaemon(one))
  const seen = names(known).join(' ')
  assert.match(seen, /qemu-system.*ambit-view|ambit-view.*qemu-system/, `control: all of it is seen: ${seen}`)
  const [id = 'no session'] =
    /s[0-9a-z]{8,}-[0-9a-z]+/.exec((await stage.ambit(['sessions', '--json'])).stdout) ?? []
  return { stage, pid, id, running, left: () => leftovers(stage, id, known) }
}

const leavesNothing = async (up: Up): Promise<void> =>
  assert.ok(await eventually(() => up.left().length === 0, 15_000), up.left().join('\n'))

test('microvm: SIGTERM to ambit run is the command’s', { skip: missing ?? false }, async () => {
  const up = await start('trap "echo got; exit 9" TERM; while :; do sleep 0.1; done')
  process.kill(up.pid, 'SIGTERM')
  const ran = await up.running
  assert.deepEqual([ran.code, ran.stdout], [9, 'got\n'], describe(ran))
  await leavesNothing(up)
})

test('microvm: a machine ended by ambit kill leaves nothing', { skip: missing ?? false }, async () => {
  const up = await start('sleep 600')
  assert.equal((await up.stage.ambit(['kill', up.id])).code, 0)
  const ran = await up.running
  assert.equal(ran.summary.outcome, 'killed', describe(ran))
  await leavesNothing(up)
})

test('microvm: a machine whose ambit run is killed leaves nothing', { skip: missing ?? false }, async () => {
  const up = await start('sleep 600')
  process.kill(up.pid, 'SIGKILL')
  await up.running
  await leavesNothing(up)
})

/** The daemon and its next session host stay for a while. */
const isDaemon = (pid: number): boolean => /ambitd\.cjs|session-host/.test(commandOf(pid))

/** Processes, mounts, sockets and files of a session that should be over. */
function leftovers(stage: Stage, id: string, known: readonly number[]): string[] {
  const lines = (path: string): string[] => readFileSync(path, 'utf8').split('\n')
  const processes = processesWith(stage.root).filter((pid) => !isDaemon(pid))
  const files = ['/tmp', '/dev/shm', '/var/tmp', join(stage.ambitHome, 'run')].flatMap((dir) =>
    readdirSync(dir)
      .filter((name) => name.includes(id))
      .map((name) => join(dir, name)),
  )
  return [
    ...processes.map((pid) => `process ${pid}: ${commandOf(pid).replaceAll('\0', ' ').slice(0, 200)}`),
    ...names(known).map((name) => `process ${name}`),
    ...lines('/proc/self/mountinfo').filter((line) => line.includes(stage.root)),
    ...lines('/proc/net/unix').filter((line) => line.includes(id)),
    ...files,
  ]
}

const read = (path: string): string => {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

/** `pid` and all beneath it, however deep; QEMU has no path of the stage in its cell. */
function family(pid: number): number[] {
  const children = readdirSync('/proc')
    .filter(
      (name) => /^\d+$/.test(name) && new RegExp(`^PPid:\t${pid}$`, 'm').test(read(`/proc/${name}/status`)),
    )
    .map(Number)
  return [pid, ...children.flatMap(family)]
}

const names = (pids: readonly number[]): string[] =>
  pids.map((pid) => read(`/proc/${pid}/comm`).trim()).filter(Boolean)
