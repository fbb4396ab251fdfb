/** A and Q: parts die, disks fill, records change. What cannot be recorded does not happen. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { packetsOut } from '../support/lab.ts'
import { once } from '../support/case.ts'
import { attack, goodHost } from '../support/net-stage.ts'
import { areGone, population } from '../support/kernels.ts'
import { commandOf, eventually, kill, processesWith } from '../support/processes.ts'
import { describe, Stage, type Step } from '../support/stage.ts'
import { settle } from '../support/upstream.ts'
import { account, type As } from '../support/users.ts'

/** Called with each request before it is answered. */
const onRequest = new Set<(url: string) => void>()

const world = once(() =>
  goodHost((request, response) => {
    for (const listener of onRequest) listener(request.url)
    response.end('hello')
  }),
)

after(() => setTimeout(() => process.exit(), 100).unref())

async function makeStage(as: As): Promise<Stage> {
  const { good } = await world(null)
  const stage = new Stage(as, { files: { 'notes.txt': 'notes' } })
  writeFileSync(join(stage.root, 'ca.pem'), good.ca, { mode: 0o644 })
  return stage
}

const network = (stage: Stage): Record<string, unknown> => ({
  network: [{ host: 'good.test', ca: join(stage.root, 'ca.pem') }],
})

/** Sends a numbered request every 100 ms, so that the outside can see when they stop. */
const BEAT = `
const https = require('node:https')
const [mark, count] = process.argv.slice(1)
let n = 0
const beat = () => {
  if (n >= Number(count)) process.exit(0)
  try { require('node:fs').appendFileSync('beats', n + '\\n') } catch {}
  https.get('https://good.test/' + mark + '/' + n++, { agent: false, timeout: 3000 }, (r) => r.resume()).on('error', () => {})
}
setInterval(beat, 100)
`

const beating = (stage: Stage, mark: string, count: number): string[] => [
  stage.product.node,
  '-e',
  BEAT,
  mark,
  String(count),
]

const beats = async (mark: string): Promise<number> =>
  (await world(null)).good.requests.filter((request) => request.url.startsWith(`/${mark}/`)).length

let marks = 0
const newMark = (as: As): string => `${as}-${++marks}`

/** Host pids of a part of this stage. */
const partsOf = (stage: Stage, part: string): number[] =>
  processesWith(stage.root).filter((pid) => commandOf(pid).includes(part))

async function verify(stage: Stage, dir?: string): Promise<{ ok: boolean; said: string }> {
  const ran = await stage.ambit(['log', 'verify', ...(dir ? [dir] : [])])
  return { ok: ran.code === 0, said: ran.stdout + ran.stderr }
}

/** Urls of the http.request events of the log, with how often each is there. */
async function recordedUrls(stage: Stage, mark: string): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  for (const event of await stage.events()) {
    const url = new RegExp(`/${mark}/\\d+`).exec(JSON.stringify(event.http_request ?? {}))?.[0]
    if (url) counts.set(url, (counts.get(url) ?? 0) + 1)
  }
  return counts
}

attack('A-01', 'keeps every record through SIGKILL of its writers', async (as) => {
  const stage = await makeStage(as)
  const { good } = await world(null)
  let acknowledged = 0
  for (const [round, wait] of [350, 700, 1100, 1600].entries()) {
    const mark = newMark(as)
    let pid = 0
    const running = stage.session(beating(stage, mark, 1000), {
      spec: network(stage),
      onStart: (child) => (pid = child),
    })
    assert.ok(await eventually(async () => (await beats(mark)) > 0, 20_000), 'control: requests arrive')
    await sleep(wait)
    // Even rounds lose the daemon first, odd ones the session.
    const victims =
      round % 2 === 0 ? [...partsOf(stage, 'ambitd.cjs'), pid] : [pid, ...partsOf(stage, 'ambitd.cjs')]
    for (const victim of victims) kill(victim)
    await running
    await eventually(() => partsOf(stage, 'ambit-launch').length + partsOf(stage, 'ambit-view').length === 0)
    await settle()
    const arrived = good.requests
      .filter((request) => request.url.startsWith(`/${mark}/`))
      .map((request) => request.url)
    const result = await verify(stage)
    assert.ok(result.ok, `round ${round}: ${result.said}`)
    const recorded = await recordedUrls(stage, mark)
    for (const url of arrived)
      assert.ok(recorded.has(url), `round ${round}: ${url} arrived and is not in the log`)
    acknowledged += arrived.length
  }
  const events = await stage.events()
  assert.equal(
    new Set(events.map((event) => JSON.stringify(event))).size,
    events.length,
    'an event is there twice',
  )
  return `4 kills, ${acknowledged} requests, all recorded`
})

attack('A-04', 'refuses actions when the disk is full, and recovers', async (as) => {
  const stage = await makeStage(as)
  const { uid, gid } = account(as)
  spawnSync('mount', [
    '-t',
    'tmpfs',
    '-o',
    `size=24m,uid=${uid},gid=${gid},mode=700`,
    'tmpfs',
    stage.ambitHome,
  ])
  assert.ok(statSync(stage.ambitHome).dev !== statSync(stage.root).dev, 'the small disk is mounted')
  try {
    const mark = newMark(as)
    const filler = join(stage.ambitHome, 'filler')
    const running = stage.session(beating(stage, mark, 1000), { spec: network(stage), timeout: 60_000 })
    assert.ok(await eventually(async () => (await beats(mark)) > 3, 20_000), 'control: requests arrive')
    spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4096'], { stdio: 'ignore' })
    const ran = await running
    assert.equal(ran.code, 125, `the session was stopped\n${describe(ran)}`)
    const arrived = await beats(mark)
    rmSync(filler)
    await eventually(() => partsOf(stage, 'ambit-launch').length === 0)
    const result = await verify(stage)
    assert.ok(result.ok, result.said)
    const recorded = await recordedUrls(stage, mark)
    assert.equal(recorded.size >= arrived, true, `${arrived} arrived, ${recorded.size} recorded`)
    const again = await stage.session(['/bin/echo', 'it-runs'], { spec: network(stage) })
    assert.match(again.stdout, /it-runs/, `resumes when there is space\n${describe(again)}`)
    return `stopped (125) after ${arrived}, all recorded; then works again`
  } finally {
    for (const pid of partsOf(stage, 'ambitd.cjs')) kill(pid)
    await sleep(200)
    spawnSync('umount', ['-l', stage.ambitHome])
  }
})

attack('A-10', 'finds every change to the log', async (as) => {
  const stage = await makeStage(as)
  await stage.inside(
    Array.from({ length: 5 }, (_, index) => ({
      name: `w${index}`,
      op: 'write',
      path: join(stage.project, `f${index}`),
    })),
  )
  const dir = (await stage.ambit(['log', 'dir'])).stdout.trim()
  const honest = await verify(stage)
  assert.ok(honest.ok, honest.said)
  const copy = join(stage.outside, 'copy')
  const fresh = (): string => {
    rmSync(copy, { recursive: true, force: true })
    cpSync(dir, copy, { recursive: true })
    return copy
  }
  fresh()
  stage.own()
  assert.ok((await verify(stage, copy)).ok, 'control: an unchanged copy verifies')
  const bundle = current(dir, 'tile/entries')
  const hash = current(dir, 'tile/0')
  const changes: Record<string, (root: string) => void> = {
    'one byte of an entry': (root) =>
      edit(join(root, bundle), (data) => flip(data, Math.floor(data.length / 2))),
    'first byte of an entry': (root) => edit(join(root, bundle), (data) => flip(data, 3)),
    'entries swapped': (root) => edit(join(root, bundle), swapEntries),
    'entry removed': (root) => edit(join(root, bundle), (data) => data.subarray(2 + data.readUInt16BE(0))),
    'entry twice': (root) =>
      edit(join(root, bundle), (data) => Buffer.concat([data.subarray(0, 2 + data.readUInt16BE(0)), data])),
    'bundle truncated': (root) => truncateSync(join(root, bundle), 10),
    'bundle deleted': (root) => rmSync(join(root, bundle)),
    'one byte of a hash': (root) => edit(join(root, hash), (data) => flip(data, 5)),
    'checkpoint size': (root) =>
      edit(join(root, 'checkpoint'), (data) =>
        Buffer.from(data.toString().replace(/\n(\d)/, (_, digit) => `\n${(Number(digit) % 9) + 1}`)),
      ),
    'checkpoint signature': (root) => edit(join(root, 'checkpoint'), (data) => flip(data, data.length - 8)),
    'checkpoint deleted': (root) => rmSync(join(root, 'checkpoint')),
  }
  for (const [name, change] of Object.entries(changes)) {
    change(fresh())
    stage.own()
    const result = await verify(stage, copy)
    assert.equal(result.ok, false, `${name} went unseen`)
    if (name.startsWith('entries swapped'))
      assert.match(result.said, /entry \d+/, `${name}: names the entry: ${result.said}`)
  }
  return `${Object.keys(changes).length} changes found`
})

/** The tile that the checkpoint speaks of: superseded partial ones may still lie beside it. */
function current(dir: string, folder: string): string {
  const files = globSync(`${folder}/**/*`, { cwd: dir }).filter((path) => statSync(join(dir, path)).isFile())
  const [largest] = files.sort((a, b) => statSync(join(dir, b)).size - statSync(join(dir, a)).size)
  assert.ok(largest, `no tile in ${folder}`)
  return largest
}

function edit(path: string, change: (data: Buffer) => Buffer): void {
  const data = readFileSync(path)
  const changed = change(Buffer.from(data))
  assert.ok(!changed.equals(data), `the test changed nothing in ${basename(path)}`)
  writeFileSync(path, changed)
}

function flip(data: Buffer, at: number): Buffer {
  data[at] = (data[at] ?? 0) ^ 1
  return data
}

/** The first two entries of a bundle (each a big-endian u16 length and its bytes), exchanged. */
function swapEntries(data: Buffer): Buffer {
  const first = 2 + data.readUInt16BE(0)
  const second = first + 2 + data.readUInt16BE(first)
  return Buffer.concat([data.subarray(first, second), data.subarray(0, first), data.subarray(second)])
}

attack('A-18', 'records the intent before the effect, and keeps an orphan intent', async (as) => {
  const stage = await makeStage(as)
  const mark = newMark(as)
  const found: boolean[] = []
  let pid = 0
  const look = (url: string): void => {
    if (!url.startsWith(`/${mark}/`)) return
    // The request has arrived: its record must already lie in the journal.
    const journals = globSync('state/sessions/*/journal/run.wal', { cwd: stage.ambitHome })
    found.push(journals.some((file) => readFileSync(join(stage.ambitHome, file)).includes(url)))
    if (found.length === 6) process.kill(pid, 'SIGKILL')
  }
  onRequest.add(look)
  const running = stage.session(beating(stage, mark, 40), {
    spec: network(stage),
    onStart: (child) => (pid = child),
  })
  await running
  onRequest.delete(look)
  assert.ok(found.length >= 6, `control: ${found.length} requests arrived`)
  assert.ok(!found.includes(false), 'a request arrived before its record was written')
  await eventually(() => partsOf(stage, 'ambit-launch').length === 0)
  const result = await verify(stage)
  assert.ok(result.ok, result.said)
  const recorded = await recordedUrls(stage, mark)
  assert.ok(recorded.has(`/${mark}/5`), 'the intent without an outcome is in the log')
  return `${found.length} of ${found.length} recorded first; orphan kept`
})

attack('A-19', 'has one writer of the log, and a lock that dies with it', async (as) => {
  const stage = await makeStage(as)
  const sessions = await Promise.all(
    Array.from({ length: 3 }, (_, index) => {
      const steps = Array.from({ length: 8 }, (_, n) => ({
        name: `w${n}`,
        op: 'write',
        path: join(stage.project, `s${index}-${n}`),
      }))
      return stage.inside(steps)
    }),
  )
  for (const ran of sessions) assert.equal(ran.summary.outcome, 'ended', describe(ran))
  const [daemon] = partsOf(stage, 'ambitd.cjs')
  assert.ok(daemon, 'control: a daemon runs')
  assert.equal(partsOf(stage, 'ambitd.cjs').length, 1, 'two daemons run')
  const second = await stage.command(
    [join(stage.product.root, 'ambit/.build/node'), join(stage.product.root, 'ambit/.build/ambitd.cjs')],
    { timeout: 20_000 },
  )
  assert.equal(second.signal, null, `a second daemon stays\n${describe(second)}`)
  assert.deepEqual(partsOf(stage, 'ambitd.cjs'), [daemon])
  process.kill(daemon, 'SIGKILL')
  await eventually(() => partsOf(stage, 'ambitd.cjs').length === 0)
  const next = await stage.inside([{ name: 'w', op: 'write', path: join(stage.project, 'after') }])
  assert.equal(next.summary.outcome, 'ended', `a stale lock stays\n${describe(next)}`)
  const result = await verify(stage)
  assert.ok(result.ok, result.said)
  const events = await stage.events()
  assert.equal(
    new Set(events.map((event) => JSON.stringify(event))).size,
    events.length,
    'an entry is there twice',
  )
  return `4 sessions, ${events.length} entries, each once`
})

attack('Q-01', 'sends nothing while the part that must record is gone', async (as) => {
  const stage = await makeStage(as)
  const mark = newMark(as)
  const running = stage.session(beating(stage, mark, 1000), { spec: network(stage), timeout: 60_000 })
  assert.ok(await eventually(async () => (await beats(mark)) > 3, 20_000), 'control: requests arrive')
  const [daemon] = partsOf(stage, 'ambitd.cjs')
  assert.ok(daemon)
  // It cannot come back: its place is taken.
  const socket = globSync('run/*.sock', { cwd: stage.ambitHome })[0] ?? 'run/ambitd.sock'
  process.kill(daemon, 'SIGKILL')
  rmSync(join(stage.ambitHome, socket), { force: true })
  mkdirSync(join(stage.ambitHome, socket, 'occupied'), { recursive: true })
  await sleep(1000)
  const arrived = await beats(mark)
  const dials = (await world(null)).good.connections()
  await sleep(4000)
  assert.equal(await beats(mark), arrived, 'requests arrive without a daemon')
  assert.equal((await world(null)).good.connections(), dials, 'something was dialled')
  const ran = await running
  assert.equal(ran.code, 125, describe(ran))
  assert.equal(await beats(mark), arrived, 'a late request went out')
  rmSync(join(stage.ambitHome, socket), { recursive: true, force: true })
  assert.ok((await verify(stage)).ok)
  return `0 requests after its death, session ended 125`
})

attack('Q-03', 'ends slow clients by deadlines', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const before = good.connections()
  const slow = (name: string, op: string, send: readonly string[]): Step => ({
    name,
    op,
    host: 'good.test',
    port: 443,
    send,
    gap: 1000,
    wait: 25_000,
  })
  const hello = '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'
  const request = 'GET /slow HTTP/1.1\r\nhost: good.test\r\nx-a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb'
  const inside = await stage.inside(
    [
      [
        slow('half a hello', 'tcp', [hello]),
        slow('hello by bytes', 'tcp', hello.padEnd(24, '\0').split('')),
        slow('silent', 'tcp', []),
        slow('head by bytes', 'tls', request.slice(0, 24).split('')),
        slow('half a head', 'tls', [request]),
      ],
      { name: 'quick', op: 'http', url: 'https://good.test/quick' },
    ],
    { spec: network(stage) },
  )
  const times: number[] = []
  for (const name of ['half a hello', 'hello by bytes', 'silent', 'head by bytes', 'half a head']) {
    const { value, text } = inside.result(name)
    assert.ok(value?.closed, `${name} is still open after ${value?.ms} ms (${text})`)
    assert.ok(value.ms < 20_000, `${name}: ${value.ms} ms`)
    times.push(value.ms)
  }
  assert.equal(inside.result('quick').value?.status, 200, 'control: an ordinary request is served')
  assert.equal(good.connections(), before + 1, 'slow clients caused connections')
  return `closed after ${(Math.min(...times) / 1000).toFixed(0)}–${(Math.max(...times) / 1000).toFixed(0)} s`
})

attack('Q-08', 'leaves no network when the gate dies', async (as) => {
  const stage = await makeStage(as)
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const mark = newMark(as)
    let pid = 0
    const running = stage.session(beating(stage, mark, 1000), {
      spec: network(stage),
      onStart: (child) => (pid = child),
    })
    assert.ok(await eventually(async () => (await beats(mark)) > 3, 20_000), 'control: requests arrive')
    const packets = packetsOut()
    const seen = population(stage, mark)
    assert.ok(seen.length > 0, 'control: the agent is seen')
    const killed = performance.now()
    process.kill(pid, signal)
    await running
    assert.ok(performance.now() - killed < 30_000, `${signal} took too long`)
    await settle()
    const arrived = await beats(mark)
    await sleep(1500)
    assert.equal(await beats(mark), arrived, `${signal}: requests still arrive`)
    assert.equal(packetsOut(), packets, `${signal}: packets left`)
    const left = (): boolean => population(stage, mark).length > 0 || !areGone(seen)
    assert.ok(await eventually(() => !left()), `${signal}: the agent still runs`)
  }
  return 'nothing sent after SIGTERM and SIGKILL'
})

attack('Q-10', 'never takes a broken policy for a default', async (as) => {
  const stage = await makeStage(as)
  const control = await stage.session(['/bin/echo', 'it-ran'], { spec: network(stage) })
  assert.match(control.stdout, /it-ran/, `control\n${describe(control)}`)
  const policies = join(stage.ambitHome, 'config/policies')
  mkdirSync(policies, { recursive: true })
  const broken: Record<string, string> = {
    'does not parse': 'package ambit.admission\n\ndeny contains "x" if {\n',
    'cut off': 'package ambit.admission\n\ndeny contai',
    empty: '',
    'not Rego': '\0\x01\x02',
  }
  for (const [name, text] of Object.entries(broken)) {
    writeFileSync(join(policies, 'local.rego'), text)
    const ran = await stage.session(['/bin/echo', 'it-ran'], { spec: network(stage) })
    assert.doesNotMatch(ran.stdout, /it-ran/, `ran under a policy that is ${name}`)
    assert.ok([125, 126].includes(ran.code ?? 0), `${name}: exit ${ran.code}`)
    assert.match(ran.stderr, /ambit: .*(policy|policies|rego)/i, `${name} is reported: ${ran.stderr}`)
  }
  rmSync(join(policies, 'local.rego'))
  const profile = join(stage.root, 'broken.yaml')
  for (const text of ['', 'apiVersion: ambit/v1\nkind: Prof', '{}', '\0']) {
    writeFileSync(profile, text)
    const ran = await stage.ambit(stage.run(['/bin/echo', 'it-ran'], profile))
    assert.doesNotMatch(ran.stdout, /it-ran/, `ran under a broken profile: ${JSON.stringify(text)}`)
    assert.notEqual(ran.code, 0)
  }
  assert.ok(existsSync(profile) && readdirSync(policies).length === 0)
  return '4 policies and 4 profiles refused'
})
