import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Journal, readJournal } from '../../src/audit/journal.ts'
import { Log } from '../../src/audit/log.ts'
import type { LogFiles } from '../../src/audit/log-files.ts'
import { formatSignerKey, parseSignerKey } from '../../src/audit/note.ts'
import { type EventContext, encodeEvent, toEvent } from '../../src/audit/ocsf.ts'
import { readEvents } from '../../src/audit/read.ts'
import { Sequencer, isSealed, readSeal } from '../../src/audit/sequencer.ts'
import { verifyLog } from '../../src/audit/verify.ts'
import { FaultFiles } from './fault-files.ts'
import { SAMPLES, frame } from './samples.ts'
import { tempDir } from './temp.ts'

const signer = parseSignerKey(formatSignerKey('ambit.invalid/seq', Buffer.alloc(32, 5)))
const device = { uid: 'd', hostname: 'h' }

class World {
  readonly dir: string
  constructor(dir: string) {
    this.dir = dir
  }
  get log(): string {
    return join(this.dir, 'log')
  }
  session(id: string): string {
    return join(this.dir, 'sessions', id)
  }
  wal(id: string, name: string): string {
    return join(this.session(id), 'journal', `${name}.wal`)
  }
  journal(id: string, name: string): Journal {
    fs.mkdirSync(join(this.session(id), 'journal'), { recursive: true })
    return Journal.open(this.wal(id, name))
  }
  async open(files?: LogFiles): Promise<{ log: Log; sequencer: Sequencer }> {
    const log = await Log.open({ dir: this.log, signer, lock: () => true, ...(files ? { files } : {}) })
    return { log, sequencer: new Sequencer({ log, device, dirOf: (id) => this.session(id) }) }
  }
  events(): { uid: string; kind: string; profile: string | null; path: string; gap?: { reason: string } }[] {
    return [...readEvents(this.log)].map(({ json }) => {
      const event = JSON.parse(json)
      return {
        uid: event.metadata.uid,
        kind: event.ambit.kind,
        profile: event.ambit.profile,
        path: event.file?.path,
        gap: event.ambit.gap,
      }
    })
  }
}

const world = (t: TestContext): World => new World(tempDir(t))
const remove = (path: string) => ({ k: 'file.delete', path }) as const
const { t: _t, m: _m, ...start } = SAMPLES[0] as Extract<(typeof SAMPLES)[number], { k: 'session.start' }>

test('merges journals by their monotonic clock and names each event by its place', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  const view = w.journal('s-a', 'view')
  run.append(start)
  for (let i = 0; i < 20; i++) (i % 3 ? view : run).append(remove(`/${i}`))
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  const head = await sequencer.sequence()
  assert.equal(head.size, 21)
  assert.deepEqual(
    w
      .events()
      .slice(1)
      .map(({ path }) => path),
    Array.from({ length: 20 }, (_, i) => `/${i}`),
  )
  assert.equal(w.events()[0]?.uid, 's-a:run:8')
  assert.ok(w.events().every(({ profile }) => profile === 'writer'))
  assert.deepEqual(sequencer.counters('s-a'), { 'session.start': 1, 'file.delete': 20 })
  log.close()
})

test('without haste it pauses, keeps what comes meanwhile in its order, and hurries when somebody waits', async (t) => {
  const w = world(t)
  const [run, view] = [w.journal('s-a', 'run'), w.journal('s-a', 'view')]
  const names = Array.from({ length: 3000 }, (_, i) => `/${i}`)
  const append = (from: number, to: number): void =>
    names.slice(from, to).forEach((name, i) => (i % 3 ? view : run).append(remove(name)))
  run.append(start)
  append(0, 1500)
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  const began = performance.now()
  const gentle = sequencer.sequenceGently()
  await sleep(20)
  append(1500, 3000)
  assert.equal(log.size, 0, 'it is between two shares')
  assert.equal((await gentle).size, 1501, 'what was recorded until its call')
  assert.ok(performance.now() - began > 100, 'pauses')
  const waiting = sequencer.sequenceGently()
  assert.equal((await sequencer.sequence()).size, 3001)
  assert.equal((await waiting).size, 3001)
  assert.deepEqual(
    w
      .events()
      .slice(1)
      .map(({ path }) => path),
    names,
  )
  log.close()
})

test('however facts are spread over journals, the log holds the same as by the plain way', async (t) => {
  const w = world(t)
  const below = numbers(7)
  const names = ['run', 'view', 'launch'] as const
  const facts = names.map(() => {
    let m = 0
    // Equal clocks, some that go back, runs of one kind, texts that are not in their usual form, a long one.
    return Array.from({ length: 700 + below(300) }, () => {
      m += [0, 0, 1, 1, 2, 40, -3][below(7)]!
      const fact = SAMPLES[below(4) === 0 ? below(SAMPLES.length) : 10 + below(4)]!
      const path = ['/usual', '/\ud83d lone', `/${'long'.repeat(20_000 * Number(below(90) === 0))}`][below(3)]
      return { ...fact, ...('path' in fact ? { path } : null), t: 1_763_800_000_000 + m, m: Math.max(0, m) }
    })
  })
  for (const [i, name] of names.entries()) {
    w.journal('s-a', name).close()
    for (const fact of facts[i]!)
      fs.appendFileSync(w.wal('s-a', name), frame(Buffer.from(JSON.stringify(fact))))
  }
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  await sequencer.sequence()
  const kinds = facts.flat().map(({ k }) => k)
  assert.deepEqual(
    sequencer.counters('s-a'),
    Object.fromEntries([...new Set(kinds)].map((kind) => [kind, kinds.filter((k) => k === kind).length])),
  )
  log.close()
  const queues = names.map((name) => [...readJournal(w.wal('s-a', name))])
  let start: EventContext['start'] = null
  let index = 0
  for (const { json } of readEvents(w.log)) {
    const from = queues.reduce(
      (best, [head], i) => (head && head.fact.m < (queues[best]?.[0]?.fact.m ?? Infinity) ? i : best),
      queues.findIndex(([head]) => head),
    )
    const { fact, offset } = queues[from]!.shift()!
    if (fact.k === 'session.start') start ??= fact
    const event = toEvent(fact, { session: 's-a', journal: names[from]!, offset }, { device, start }, index++)
    assert.equal(json, String(encodeEvent(event)))
  }
  assert.deepEqual(queues, [[], [], []])
})

/** Numbers below a bound, the same ones each time. */
function numbers(seed: number): (bound: number) => number {
  let state = seed
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
}

test('goes on behind what the log holds, knowing what it knew', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  run.append(start)
  run.append(remove('/1'))
  const first = await w.open()
  first.sequencer.follow('s-a')
  await first.sequencer.sequence()
  first.log.close()
  run.append(remove('/2'))
  const second = await w.open()
  second.sequencer.follow('s-a')
  await second.sequencer.sequence()
  assert.deepEqual(
    w.events().map(({ path }) => path),
    [undefined, '/1', '/2'],
  )
  assert.equal(w.events()[2]?.profile, 'writer')
  assert.deepEqual(second.sequencer.counters('s-a'), { 'session.start': 1, 'file.delete': 2 })
  second.log.close()
})

test('A-01: each record is in the log once, at whatever step the sequencer dies', async (t) => {
  const life = async (w: World, files?: LogFiles): Promise<void> => {
    const { log, sequencer } = await w.open(files)
    try {
      sequencer.follow('s-a')
      await sequencer.sequence()
      const view = w.journal('s-a', 'view')
      for (let i = 0; i < 5; i++) view.append(remove(`/late${i}`))
      view.close()
      await sequencer.sequence()
      await sequencer.finish('s-a')
    } finally {
      log.close()
    }
  }
  const fill = (w: World): void => {
    const run = w.journal('s-a', 'run')
    for (let i = 0; i < 260; i++) run.append(remove(`/${i}`))
    run.close()
  }
  const whole = world(t)
  fill(whole)
  const probe = new FaultFiles(whole.log)
  await life(whole, probe)
  assert.ok(probe.steps.length > 20)
  for (let at = 1; at <= probe.steps.length; at++) {
    const w = world(t)
    fill(w)
    await assert.rejects(life(w, new FaultFiles(w.log, at)), Error)
    const { log, sequencer } = await w.open()
    sequencer.follow('s-a')
    await sequencer.finish('s-a')
    log.close()
    const uids = w.events().map(({ uid }) => uid)
    assert.equal(new Set(uids).size, uids.length, `twice, step ${at}`)
    const late = fs.existsSync(w.wal('s-a', 'view')) ? 5 : 0
    assert.equal(uids.length, 260 + late, `lost, step ${at}`)
    assert.equal((await verifyLog(w.log, signer.vkey)).ok, true)
  }
})

test('a journal that is corrupt half-way makes one gap event; nothing behind it is believed, others go on', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  const view = w.journal('s-a', 'view')
  view.append(remove('/1'))
  const bad = view.length
  view.append(remove('/2'))
  view.append(remove('/3'))
  const fd = fs.openSync(w.wal('s-a', 'view'), 'r+')
  fs.writeSync(fd, 'X', bad + 12)
  fs.closeSync(fd)
  let { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  await sequencer.sequence()
  assert.deepEqual(
    w.events().map(({ kind }) => kind),
    ['file.delete'],
    'one look may have met a write half done',
  )
  await sleep(250)
  await sequencer.sequence()
  run.append(remove('/4'))
  view.append(remove('/5'))
  await sequencer.sequence()
  log.close()
  ;({ log, sequencer } = await w.open())
  sequencer.follow('s-a')
  await sequencer.finish('s-a')
  assert.deepEqual(
    w.events().map(({ kind }) => kind),
    ['file.delete', 'gap', 'file.delete'],
  )
  assert.match(w.events()[1]?.gap?.reason ?? '', new RegExp(`corrupt at byte ${bad}`))
  assert.equal(w.events()[2]?.path, '/4')
  log.close()
})

for (const [name, harm, reason] of [
  ['removed while followed', (path: string) => fs.rmSync(path), /removed/],
  ['cut below what was sequenced', (path: string) => fs.truncateSync(path, 8), /cut to 8/],
] as const) {
  test(`a journal that is ${name} makes one gap event`, async (t) => {
    const w = world(t)
    const view = w.journal('s-a', 'view')
    view.append(remove('/1'))
    const { log, sequencer } = await w.open()
    sequencer.follow('s-a')
    await sequencer.sequence()
    harm(w.wal('s-a', 'view'))
    await sequencer.sequence()
    await sequencer.sequence()
    await sequencer.finish('s-a')
    assert.deepEqual(
      w.events().map(({ kind }) => kind),
      ['file.delete', 'gap'],
    )
    assert.match(w.events()[1]?.gap?.reason ?? '', reason)
    log.close()
  })
}

test('a journal that cannot be read makes one gap event, and others go on', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  run.append(remove('/1'))
  // What the kernel opens and does not read.
  fs.mkdirSync(w.wal('s-a', 'view'))
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  await sequencer.sequence()
  run.append(remove('/2'))
  await sequencer.finish('s-a')
  log.close()
  const [gaps, others] = [w.events().filter(({ gap }) => gap), w.events().filter(({ gap }) => !gap)]
  assert.deepEqual(
    gaps.map(({ gap }) => gap?.reason),
    ['cannot be read at byte 0'],
  )
  assert.deepEqual(
    others.map(({ path }) => path),
    ['/1', '/2'],
  )
})

test('a journal that vanished while no daemon ran makes one gap event', async (t) => {
  const w = world(t)
  w.journal('s-a', 'view').append(remove('/1'))
  const first = await w.open()
  first.sequencer.follow('s-a')
  await first.sequencer.sequence()
  first.log.close()
  fs.rmSync(w.wal('s-a', 'view'))
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  await sequencer.finish('s-a')
  assert.deepEqual(
    w.events().map(({ gap }) => gap?.reason),
    [undefined, 'vanished'],
  )
  log.close()
})

test('an unfinished record is waited for while its writer may live, and is a gap at the end', async (t) => {
  const w = world(t)
  const view = w.journal('s-a', 'view')
  view.append(remove('/1'))
  view.append(remove('/2'))
  const whole = fs.readFileSync(w.wal('s-a', 'view'))
  fs.truncateSync(w.wal('s-a', 'view'), whole.length - 3)
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  for (let i = 0; i < 3; i++) await sequencer.sequence()
  assert.equal(w.events().length, 1)
  fs.writeFileSync(w.wal('s-a', 'view'), whole)
  await sequencer.sequence()
  assert.deepEqual(
    w.events().map(({ path }) => path),
    ['/1', '/2'],
  )
  fs.appendFileSync(w.wal('s-a', 'view'), 'abc')
  await sequencer.finish('s-a')
  assert.match(w.events()[2]?.gap?.reason ?? '', /unfinished/)
  log.close()
})

test('a sealed session leaves the state of the log; what is written after the seal is sequenced once', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  run.append(remove('/1'))
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  await sequencer.finish('s-a')
  assert.equal(readSeal(w.session('s-a')).run?.offset, run.length)
  w.journal('s-b', 'run').append(remove('/other'))
  sequencer.follow('s-b')
  await sequencer.sequence()
  assert.deepEqual(Object.keys(log.cursors), ['s-b/run'])
  run.append(remove('/2'))
  for (let i = 0; i < 2; i++) {
    sequencer.follow('s-a')
    await sequencer.finish('s-a')
  }
  assert.deepEqual(
    w.events().map(({ path }) => path),
    ['/1', '/other', '/2'],
  )
  log.close()
})

test('a journal without a record does not keep its session from being sealed', async (t) => {
  const w = world(t)
  w.journal('s-a', 'run').append(remove('/1'))
  const view = w.journal('s-a', 'view')
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  assert.equal(isSealed(w.session('s-a')), false)
  await sequencer.finish('s-a')
  assert.equal(isSealed(w.session('s-a')), true)
  view.append(remove('/late'))
  assert.equal(isSealed(w.session('s-a')), false)
  log.close()
})

test('A-15: an event that is too long keeps its structure, a digest and its length', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  run.append({
    k: 'process.launch',
    pid: 2,
    ppid: 1,
    path: `/${'é'.repeat(100_000)}`,
    digest: null,
    argv: Array(4000).fill('\u0000"\\ud800'.repeat(10)),
    cwd: '/',
    truncated: false,
  })
  run.append(remove('/next'))
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  await sequencer.sequence()
  const [long, next] = [...readEvents(w.log)]
  const event = JSON.parse(long!.json)
  assert.ok(Buffer.byteLength(long!.json) <= 65_535)
  assert.equal(event.class_uid, 1007)
  assert.match(event.ambit.truncated.sha256, /^[0-9a-f]{64}$/)
  assert.ok(event.ambit.truncated.bytes > 65_535)
  assert.equal(next?.kind, 'file.delete')
  log.close()
})

test('a journal that cannot be opened for want of descriptors is read later, and is no gap', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  for (const path of ['/1', '/2']) run.append(remove(path))
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  const held = takeDescriptors()
  try {
    await assert.rejects(sequencer.sequence(), { code: 'EMFILE' })
    await assert.rejects(sequencer.finish('s-a'), { code: 'EMFILE' })
  } finally {
    held.give()
  }
  run.append(remove('/3'))
  await sequencer.finish('s-a')
  log.close()
  assert.deepEqual(
    w.events().map(({ kind, path }) => [kind, path]),
    ['/1', '/2', '/3'].map((path) => ['file.delete', path]),
  )
  assert.equal((await verifyLog(w.log, signer.vkey)).ok, true)
})

/** Takes every descriptor that this process may have, which is fewer for so long. */
function takeDescriptors(): { give: () => void } {
  const limit = (soft: string): void => {
    execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:`])
  }
  const { soft } = (process.report.getReport() as { userLimits: { open_files: { soft: number } } }).userLimits
    .open_files
  // Room for what puts it back: other tests of this process hold some, too.
  const highest = Math.max(...fs.readdirSync('/proc/self/fd').map(Number))
  limit(String(highest + 64))
  const taken: number[] = []
  try {
    for (;;) taken.push(fs.openSync('/dev/null', 'r'))
  } catch {
    // There are no more.
  }
  const give = (): void => {
    for (const fd of taken) fs.closeSync(fd)
    limit(String(soft))
  }
  return { give }
}

test('A-01: a real sequencer killed again and again by SIGKILL loses nothing and doubles nothing', async (t) => {
  const w = world(t)
  const run = w.journal('s-a', 'run')
  const here = (path: string) => import.meta.resolve(`../../src/audit/${path}`)
  const script = join(w.dir, 'sequence.mjs')
  fs.writeFileSync(
    script,
    `import { Log } from '${here('log.ts')}'
     import { Sequencer } from '${here('sequencer.ts')}'
     import { formatSignerKey, parseSignerKey } from '${here('note.ts')}'
     const signer = parseSignerKey(formatSignerKey('ambit.invalid/seq', Buffer.alloc(32, 5)))
     const log = await Log.open({ dir: '${w.log}', signer, lock: () => true })
     const sequencer = new Sequencer({ log, device: { uid: 'd', hostname: 'h' }, dirOf: (id) => '${w.dir}/sessions/' + id })
     sequencer.follow('s-a')
     console.log('up')
     for (;;) { await sequencer.sequence(); await new Promise(setImmediate) }`,
  )
  let written = 0
  for (let life = 0; life < 5; life++) {
    const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] })
    await Promise.race([
      once(child.stdout, 'data'),
      once(child, 'exit').then(() => assert.fail('it ended by itself')),
    ])
    const end = Date.now() + 20 + life * 7
    while (Date.now() < end) {
      for (let i = 0; i < 40; i++) run.append(remove(`/${written++}`))
      await sleep(1)
    }
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  const { log, sequencer } = await w.open()
  sequencer.follow('s-a')
  await sequencer.finish('s-a')
  log.close()
  assert.deepEqual(
    w.events().map(({ path }) => path),
    Array.from({ length: written }, (_, i) => `/${i}`),
  )
  assert.equal((await verifyLog(w.log, signer.vkey)).ok, true)
})
