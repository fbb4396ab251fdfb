/**
 * A soak: one long session that works all the time, and short ones beside it one after the other. After a warm-up,
 * nothing may grow but the record itself. Growth is measured, not time: other tests share the machine.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Footprint, footprintOf, mountCount, sizeBelow } from './footprint.ts'
import { commandOf, processesWith } from './processes.ts'
import { keepProduct } from './product.ts'
import { describe, type Stage } from './stage.ts'

/** Files written, read, renamed and removed; a program started; a request made; again and again. */
const WORK = `
const fs = require('node:fs'), https = require('node:https'), { execFileSync } = require('node:child_process')
const end = Date.now() + Number(process.argv[1]), mark = Math.random().toString(36).slice(2)
let rounds = 0
const ask = () => new Promise((done) => https.get('https://good.test/soak', (answer) => answer.resume().on('end', done)).on('error', done))
const round = async () => {
  for (let n = 0; n < 20; n++) {
    const name = 'soak-' + mark + '-' + n
    fs.writeFileSync(name, 'x'.repeat(n * 512))
    fs.readFileSync(name)
    fs.renameSync(name, name + '.done')
    fs.unlinkSync(name + '.done')
  }
  try { fs.readFileSync('.env') } catch {}
  execFileSync('/bin/true')
  await ask()
  rounds++
  if (Date.now() < end) setTimeout(round, 50)
  else console.log('rounds ' + rounds)
}
void round()
`

const PARTS = ['supervisor', 'view', 'launch', 'ambitd'] as const
type Part = (typeof PARTS)[number]
/** What a stage's oldest session and its daemon cost at one time. */
export type Sample = Readonly<Record<Part, Footprint>> & {
  /** Milliseconds, from any moment. */
  readonly at: number
  readonly processes: number
  readonly mounts: number
}

/**
 * How much a part may grow after the warm-up: garbage of Node's, an allocator's rounding in what is native. Over a long
 * time it is a bound for an hour, too: what grows slowly and for ever shows as a slope.
 */
const GROWTH_KIB: Readonly<Record<Part, number>> = {
  supervisor: 24 * 1024,
  view: 4 * 1024,
  launch: 2 * 1024,
  ambitd: 24 * 1024,
}
/** Over less, a slope is that of garbage. */
const SLOPE_FROM_MS = 10 * 60_000
const GROWTH_FDS = 4

export interface Soaked {
  readonly rounds: number
  readonly sessions: number
  readonly growth: string
}

/** Soaks for `ms`, of which a third is warm-up. */
export async function soak(
  stage: Stage,
  spec: Readonly<Record<string, unknown>>,
  ms: number,
): Promise<Soaked> {
  let run = 0
  const command = (time: number): string[] => [stage.product.node, '-e', WORK, String(time)]
  const long = stage.session(command(ms), { spec, timeout: ms + 120_000, onStart: (pid) => (run = pid) })
  const began = performance.now()
  const samples: Sample[] = []
  let sessions = 0
  await sleep(3000)
  while (performance.now() - began < ms - 5000) {
    const short = await stage.session(command(0), { spec })
    assert.equal(short.code, 0, describe(short))
    sessions++
    await sleep(500)
    samples.push(sampleOf(stage, run))
  }
  const ended = await long
  assert.equal(ended.code, 0, describe(ended))
  const warm = samples.filter(({ at }) => at - began >= ms / 3)
  const rounds = Number(/^rounds (\d+)/m.exec(ended.stdout)?.[1] ?? 0)
  assert.ok(warm.length >= 4 && rounds > 4, `control: ${warm.length} samples, ${rounds} rounds`)
  const growth = checkGrowth(warm)
  await checkRecord(stage, ended.summary.session, rounds)
  return { rounds, sessions, growth }
}

/** Compares the quarter after the warm-up with the last one, each by its smallest: garbage comes and goes. */
export function checkGrowth(samples: readonly Sample[]): string {
  const quarter = Math.max(1, Math.floor(samples.length / 4))
  const least = (from: number, of: (sample: Sample) => number): number =>
    Math.min(...samples.slice(from, from + quarter).map(of))
  const grown = (of: (sample: Sample) => number): number => least(samples.length - quarter, of) - least(0, of)
  const isLong = (samples.at(-1)?.at ?? 0) - (samples[0]?.at ?? 0) >= SLOPE_FROM_MS
  const told = PARTS.map((part) => {
    const kib = grown((sample) => sample[part].rssKiB)
    const hourly = Math.round(slope(samples.map((sample) => [sample.at, sample[part].rssKiB])) * 3_600_000)
    const fds = grown((sample) => sample[part].fds)
    assert.ok(kib <= GROWTH_KIB[part], `${part} grew by ${kib} KiB`)
    assert.ok(!isLong || hourly <= GROWTH_KIB[part], `${part} grows by ${hourly} KiB an hour`)
    assert.ok(fds <= GROWTH_FDS, `${part} has ${fds} more descriptors`)
    return `${part} ${kib} KiB (${hourly} an hour), ${fds} fds`
  })
  assert.ok(grown((sample) => sample.processes) <= 2, 'processes are left')
  assert.ok(grown((sample) => sample.mounts) <= 0, 'mounts are left')
  return told.join('; ')
}

/** The median of the slopes between all pairs (Theil and Sen): what comes and goes does not move it. */
export function slope(points: readonly (readonly [x: number, y: number])[]): number {
  const slopes = points.flatMap(([x, y], at) => points.slice(at + 1).map(([u, v]) => (v - y) / (u - x)))
  return slopes.toSorted((a, b) => a - b)[slopes.length >> 1] ?? 0
}

/** @param run the process of `ambit run`, for where no other supervises the session */
export function sampleOf(stage: Stage, run: number): Sample {
  keepProduct(stage.product)
  const commands = new Map(processesWith(stage.root).map((pid) => [pid, commandOf(pid)]))
  const find = (test: (command: string, pid: number) => boolean): number =>
    [...commands].find(([pid, command]) => test(command, pid))?.[0] ?? 0
  const oldest = oldestSession(stage)
  const supervisor = oldest.pid || run
  const sample = {
    at: performance.now(),
    supervisor: footprintOf(supervisor),
    view: footprintOf(find((command) => command.includes('ambit-view\0') && command.includes(oldest.id))),
    launch: footprintOf(find((command) => command.includes('ambit-launch\0') && command.includes(oldest.id))),
    ambitd: footprintOf(find((command) => command.includes('ambitd.cjs'))),
    processes: commands.size,
    mounts: mountCount(),
  }
  for (const part of PARTS) assert.ok(sample[part].fds > 0, `control: ${part} is found`)
  return sample
}

function oldestSession(stage: Stage): { id: string; pid: number } {
  const dir = join(stage.ambitHome, 'state/sessions')
  const id = readdirSync(dir).toSorted()[0] ?? ''
  const told = JSON.parse(readFileSync(join(dir, id, 'session.json'), 'utf8')) as { pid?: number }
  return { id, pid: told.pid ?? 0 }
}

/** The record grows with the work and no faster, and nothing else of a session that ended stays. */
async function checkRecord(stage: Stage, id: string, rounds: number): Promise<void> {
  const journals = sizeBelow(join(stage.ambitHome, 'state/sessions', id, 'journal'))
  // 20 files of some six facts of 250 bytes, a process and a request a round.
  assert.ok(journals < rounds * 64 * 1024, `${journals} bytes of journal for ${rounds} rounds`)
  assert.deepEqual(readdirSync(join(stage.ambitHome, 'run/sessions')), [])
  const verified = await stage.ambit(['log', 'verify'])
  assert.equal(verified.code, 0, describe(verified))
  const state = JSON.parse(readFileSync(join(stage.ambitHome, 'state/log/state.json'), 'utf8'))
  assert.ok(Object.keys(state.cursors).length <= 8, 'cursors of ended sessions stay in the state')
}

export const writeCa = (stage: Stage, pem: string): string => {
  const path = join(stage.root, 'ca.pem')
  writeFileSync(path, pem, { mode: 0o644 })
  return path
}
