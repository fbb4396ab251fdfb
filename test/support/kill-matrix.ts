/**
 * SIGKILL of one part of a session at one recorded step of its life, and all that must hold afterwards. The step is
 * seen from outside, in journals and in the process tree: the product knows nothing of the test.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { commandOf, eventually, processesWith } from './processes.ts'
import { describe, type SessionRan, type Stage } from './stage.ts'
import type { Upstream } from './upstream.ts'

/** Parts of a session, as a victim. */
const VICTIMS = ['run', 'host', 'launch', 'bwrap', 'init', 'agent', 'view', 'ambitd'] as const
export type Victim = (typeof VICTIMS)[number]

interface Seen {
  /** The journals as text; empty while there is none. */
  readonly run: string
  readonly view: string
  readonly launch: string
  readonly registration: string
  readonly parts: ReadonlyMap<Victim, number>
}

/** Steps of a session's life in their order, each with how it shows. */
const STEPS = {
  started: ({ run }) => run.includes('"k":"session.start"'),
  registered: ({ registration }) => registration !== '',
  namespaces: ({ parts }) => parts.has('launch'),
  view: ({ view }) => view !== '',
  cell: ({ parts }) => parts.has('init'),
  enforced: ({ run }) => run.includes('"k":"session.enforced"'),
  command: ({ launch }) => launch.includes('"k":"process.launch"'),
  write: ({ view }) => view.includes('"k":"file.write"'),
  name: ({ run }) => run.includes('"k":"dns.query"'),
  request: ({ run }) => run.includes('"k":"http.request"'),
  answer: ({ run }) => run.includes('"k":"http.response"'),
  end: ({ run }) => run.includes('"k":"session.end"'),
  signed: ({ registration }) => registration.includes('"state":"ended"'),
} as const satisfies Record<string, (seen: Seen) => boolean>
export type Step = keyof typeof STEPS

/** When a victim is there to be killed: from its step to its last. */
const LIFE: Record<Victim, readonly [Step, Step]> = {
  run: ['started', 'signed'],
  // The process that supervises, where ambitd kept one ready; else `run` does it.
  host: ['started', 'signed'],
  ambitd: ['registered', 'signed'],
  launch: ['namespaces', 'answer'],
  view: ['view', 'answer'],
  bwrap: ['cell', 'answer'],
  init: ['cell', 'answer'],
  agent: ['command', 'answer'],
}

const order = Object.keys(STEPS) as Step[]

const reaches = (step: Step, other: Step): boolean => order.indexOf(step) >= order.indexOf(other)

/** Every pair of step and victim that can meet. */
export const MATRIX: readonly (readonly [Step, Victim])[] = order.flatMap((step) =>
  VICTIMS.filter((victim) => {
    const [first, last] = LIFE[victim]
    return reaches(step, first) && reaches(last, step)
  }).map((victim) => [step, victim] as const),
)

/** Writes files and says so, asks for what is answered when the test says so, twice, writes again. */
const AGENT = `
const fs = require('node:fs'), https = require('node:https'), mark = process.argv[1]
const write = (n) => { fs.writeFileSync(mark + '-' + n, 'x'); console.log('wrote ' + mark + '-' + n) }
const ask = (path, then) => https.get('https://good.test/' + path, { agent: false }, (answer) => answer.resume().on('end', then))
  .on('error', () => process.exit(3))
for (let n = 0; n < 4; n++) write(n)
ask(mark, () => ask(mark + '-more', () => { for (let n = 4; n < 8; n++) write(n) }))
`

/** Answers that wait for a word of the test. */
export class HeldAnswers {
  readonly #free = new Set<string>()
  readonly #waiting = new Map<string, () => void>()

  /** A request for `url` has come. */
  ask(url: string, answer: () => void): void {
    if (this.#free.has(url)) answer()
    else this.#waiting.set(url, answer)
  }

  /** Whoever asks for `url`, has asked or will, is answered. */
  release(url: string): void {
    this.#free.add(url)
    this.#waiting.get(url)?.()
    this.#waiting.delete(url)
  }
}

/** What the agents reach. */
interface Outside {
  readonly good: Upstream
  readonly held: HeldAnswers
}

/** For what must come: on a machine that is very busy, everything takes ten times as long. */
const PATIENCE_MS = 120_000

export interface Kill {
  /** False when the part had ended by itself just before. */
  readonly hit: boolean
  readonly acknowledged: number
}

/** One session, one kill, every check. `spec` lets the agent reach `good.test`. */
export async function killOnce(
  stage: Stage,
  { good, held }: Outside,
  spec: Readonly<Record<string, unknown>>,
  mark: string,
  step: Step,
  victim: Victim,
): Promise<Kill> {
  const where = `${victim} killed at ${step}`
  const before = new Set(sessionsOf(stage))
  let pid = 0
  const running = stage.session([stage.product.node, '-e', AGENT, mark], {
    spec,
    timeout: PATIENCE_MS,
    onStart: (child) => (pid = child),
  })
  const ended = running.then(() => 'ended' as const)
  const watch: Watch = (reached) => until(stage, before, () => pid, reached, ended)
  // Until the kill is done, the agent comes to its step and no further.
  if (reaches(step, 'answer')) held.release(`/${mark}`)
  // Parts are made side by side: a step may show before its victim is there. A host is there or is not.
  const there = ({ parts }: Seen): boolean => victim === 'host' || parts.has(victim)
  const seen = reaches(step, 'end')
    ? await watchEnd(watch, step, victim, () => held.release(`/${mark}-more`))
    : await watch((state) => STEPS[step](state) && there(state))
  if (!seen) throw new Error(`${where}: the step was never seen\n${describe(await running)}`)
  const target = seen.state.parts.get(victim)
  const hit = target !== undefined && signal(target, 'SIGKILL')
  signal(seen.state.parts.get('ambitd'), 'SIGCONT')
  for (const url of [`/${mark}`, `/${mark}-more`]) held.release(url)
  const ran = await running
  await settled(stage, mark, seen.state.parts.get('host'), where)
  await checkRecord(stage, good, mark, seen.id, ran, where)
  if (hit) checkExit(ran, victim, step, where)
  return { hit, acknowledged: written(ran).length }
}

type Watch = (reached: (seen: Seen) => boolean) => Promise<{ id: string; state: Seen } | null>

/** The end takes moments: the daemon stands still meanwhile, and while it signs, the victim. */
async function watchEnd(watch: Watch, step: Step, victim: Victim, release: () => void): ReturnType<Watch> {
  const answered = await watch(STEPS.answer)
  const daemon = answered?.state.parts.get('ambitd')
  signal(daemon, 'SIGSTOP')
  release()
  const ending = await watch(STEPS.end)
  if (step === 'end') return ending
  if (victim !== 'ambitd') signal(ending?.state.parts.get(victim), 'SIGSTOP')
  signal(daemon, 'SIGCONT')
  return watch(STEPS[step])
}

/** Watches the new session until `reached`, as closely as one process can. */
async function until(
  stage: Stage,
  before: ReadonlySet<string>,
  pid: () => number,
  reached: (seen: Seen) => boolean,
  ended: Promise<'ended'>,
): Promise<{ id: string; state: Seen } | null> {
  let over = false
  void ended.then(() => (over = true))
  for (;;) {
    const id = sessionsOf(stage).find((name) => !before.has(name))
    if (id) {
      const state = look(stage, id, pid())
      if (reached(state)) return { id, state }
    }
    if (over) return null
    await sleep(1)
  }
}

function look(stage: Stage, id: string, run: number): Seen {
  const dir = join(stage.ambitHome, 'state/sessions', id)
  return {
    run: text(join(dir, 'journal/run.wal')),
    view: text(join(dir, 'journal/view.wal')),
    launch: text(join(dir, 'journal/launch.wal')),
    registration: text(join(dir, 'registration.json')),
    parts: partsOf(stage, run, supervisorOf(dir)),
  }
}

const supervisorOf = (dir: string): number =>
  Number(/"pid":(\d+)/.exec(text(join(dir, 'session.json')))?.[1] ?? 0)

/** The parts of the session, by the process tree: the launcher is `run`'s, the view its supervisor's. */
function partsOf(stage: Stage, run: number, supervisor: number): Map<Victim, number> {
  const parts = new Map<Victim, number>([['run', run]])
  if (supervisor !== 0 && supervisor !== run) parts.set('host', supervisor)
  for (const child of [run, supervisor].flatMap((parent) => (parent === 0 ? [] : childrenOf(parent)))) {
    const name = commandOf(child)
    if (name.includes('ambit-view\0')) parts.set('view', child)
    if (name.includes('ambit-launch\0')) parts.set('launch', child)
  }
  const launch = parts.get('launch')
  const bwrap = launch && childrenOf(launch).find((pid) => commandOf(pid).startsWith('bwrap\0'))
  const init = bwrap && childrenOf(bwrap)[0]
  const agent = init && childrenOf(init)[0]
  if (bwrap) parts.set('bwrap', bwrap)
  if (init) parts.set('init', init)
  if (agent) parts.set('agent', agent)
  const [daemon] = processesWith(stage.ambitHome).filter((pid) => commandOf(pid).includes('ambitd.cjs'))
  if (daemon) parts.set('ambitd', daemon)
  return parts
}

/** Not every kernel has /proc/PID/task/TID/children. */
function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => Number(text(`/proc/${name}/stat`).split(') ').at(-1)?.split(' ')[1]) === pid)
    .map(Number)
}

function text(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    // Not there yet, or not any more.
    return ''
  }
}

function sessionsOf(stage: Stage): string[] {
  try {
    return readdirSync(join(stage.ambitHome, 'state/sessions'))
  } catch {
    return []
  }
}

/** False when there is nobody any more. */
function signal(pid: number | undefined, name: NodeJS.Signals): boolean {
  try {
    return pid !== undefined && process.kill(pid, name)
  } catch {
    return false
  }
}

/** Nothing of the session runs or is mounted. A host that waits for the next session is none of it. */
async function settled(stage: Stage, mark: string, host: number | undefined, where: string): Promise<void> {
  const hostGone = (): boolean => host === undefined || !commandOf(host).includes('session-host')
  assert.ok(await eventually(hostGone, PATIENCE_MS), `${where}: the session's host still runs`)
  const left = (): number[] =>
    [...new Set([...processesWith(stage.root), ...processesWith(mark)])].filter(
      (pid) => !/ambitd\.cjs|session-host/.test(commandOf(pid)),
    )
  const gone = await eventually(() => left().length === 0, PATIENCE_MS)
  assert.ok(gone, `${where}: still running: ${left().map(commandOf).join('; ').replaceAll('\0', ' ')}`)
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  const ours = mounts.filter((line) => line.includes(stage.root) || / - fuse\S* ambit /.test(line))
  assert.deepEqual(ours, [], `${where}: still mounted`)
}

/** The log tells the truth, and all of it. These commands are also the next start of the daemon, where it was killed. */
async function checkRecord(
  stage: Stage,
  good: Upstream,
  mark: string,
  id: string,
  ran: SessionRan,
  where: string,
): Promise<void> {
  const told = (): string => `${where}\n${describe(ran)}`
  assert.ok(
    await eventually(async () => (await stateOf(stage, id)) !== 'live', PATIENCE_MS),
    `${told()}\nstill listed as live`,
  )
  const verified = await stage.ambit(['log', 'verify'])
  assert.equal(verified.code, 0, `${where}: ${verified.stdout}${verified.stderr}`)
  const events = await stage.events(id)
  const uids = events.map((event) => event.metadata.uid)
  assert.equal(new Set(uids).size, uids.length, `${where}: an event is there twice`)
  assert.equal(events[0]?.ambit.kind, 'session.start', told())
  const ends = events.filter((event) => event.ambit.kind === 'session.end')
  assert.equal(ends.length, 1, `${told()}\n${ends.length} ends recorded`)
  const paths = new Set(
    events.filter((event) => event.ambit.kind === 'file.write').map((event) => event.file.path),
  )
  for (const name of written(ran))
    assert.ok(paths.has(join(stage.project, name)), `${told()}\n${name} is not in the log`)
  const arrived = good.requests.filter(({ url }) => url === `/${mark}` || url === `/${mark}-more`).length
  const recorded = events.filter((event) => event.ambit.kind === 'http.request').length
  assert.ok(recorded >= arrived, `${told()}\n${arrived} requests arrived, ${recorded} are in the log`)
  assert.deepEqual(
    readdirSync(join(stage.ambitHome, 'run/sessions')),
    [],
    `${where}: its run directory is left`,
  )
  // And the next session starts and ends as if nothing had been.
  const next = await stage.session(['/bin/echo', 'it-runs'])
  assert.equal(next.code, 0, `${where}: the next session\n${describe(next)}`)
  assert.match(next.stdout, /it-runs/)
}

/** What was said to be written, after its close had returned. */
const written = (ran: SessionRan): string[] =>
  [...ran.stdout.matchAll(/^wrote (\S+)$/gm)].map((match) => match[1] ?? '')

/** What `ambit sessions` says; a session that it does not list was never registered. */
async function stateOf(stage: Stage, id: string): Promise<string> {
  const ran = await stage.ambit(['sessions', '--all', '--json'])
  assert.equal(ran.code, 0, describe(ran))
  const session = (JSON.parse(ran.stdout) as { id: string; state: string }[]).find((one) => one.id === id)
  const over = session && !['running', 'frozen', 'detached'].includes(session.state)
  return over ? session.state : 'live'
}

function checkExit(ran: SessionRan, victim: Victim, step: Step, where: string): void {
  const told = `${where}\n${describe(ran)}`
  const alive = !reaches(step, 'end')
  if (victim === 'run') assert.ok(ran.signal === 'SIGKILL' || (!alive && ran.code === 0), told)
  else if (victim === 'host')
    assert.ok([125, 0].includes(ran.code ?? -1) && (!alive || ran.code === 125), told)
  // To its command, the death of what holds it is a death by signal; at its birth, the cell may not depend on bwrap yet.
  else if (victim === 'agent' || victim === 'init' || victim === 'bwrap')
    assert.ok([137, 125, step === 'cell' ? 0 : 137].includes(ran.code ?? -1), told)
  else if (victim === 'ambitd') assert.ok([0, 125].includes(ran.code ?? -1), told)
  else if (alive) {
    assert.equal(ran.code, 125, told)
    assert.match(ran.stderr, /^ambit: /m, `says why: ${told}`)
  }
}
