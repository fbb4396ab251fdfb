import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { loadVerifierKey } from '../../src/audit/keys.ts'
import { PRODUCT } from '../../src/audit/product.ts'
import { readEvents } from '../../src/audit/read.ts'
import { verifyLog } from '../../src/audit/verify.ts'
import { connectDaemon } from '../../src/daemon/client.ts'
import { encodeFrame } from '../../src/daemon/frames.ts'
import { birthOf, lastSession, loadRecord } from '../../src/daemon/records.ts'
import { daemonSocket, keysDir, logDir, sessionDir } from '../../src/lib/paths.ts'
import { eventually } from '../support/processes.ts'
import { HELLO, Stage, startRun } from './stage.ts'

/** Unlike events.once, an EPIPE on the way is no failure: the daemon may close before all is written. */
const closed = (socket: Socket): Promise<unknown> => new Promise((resolve) => socket.once('close', resolve))

const ID = 's0abcdefg-abc123'
const OTHER = 's0abcdefg-abc124'

test('says the version of package.json', () => {
  const file = join(import.meta.dirname, '../../package.json')
  assert.equal(PRODUCT.version, JSON.parse(fs.readFileSync(file, 'utf8')).version)
})

test('follows a session from open to close, signs, and lists it', async (t) => {
  const stage = new Stage(t)
  const journal = stage.session(ID)
  const run = await stage.connect()
  await run.call('session.open', stage.openArgs(ID))
  journal.append({ k: 'file.denied', path: '/w/.env', op: 'open', reason: 'hidden', rule: 'files[0]' })
  const cli = await stage.connect()
  assert.equal((await cli.call('log.sync', {})).size, 2)
  assert.equal((await verifyLog(logDir(stage.paths), loadVerifierKey(stage.paths))).ok, true)
  const [live] = (await cli.call('sessions', { all: false })).sessions
  assert.deepEqual(
    [live?.id, live?.state, live?.pid, live?.counters],
    [ID, 'running', process.pid, { 'session.start': 1, 'file.denied': 1 }],
  )
  journal.append({ k: 'session.end', outcome: 'killed', exit: 125, reason: 'x' })
  await journal.sync()
  const head = await run.call('session.close', { id: ID })
  assert.equal(head.size, 3)
  assert.deepEqual(await verifyLog(logDir(stage.paths), loadVerifierKey(stage.paths)), { ok: true, ...head })
  assert.deepEqual((await cli.call('sessions', { all: false })).sessions, [])
  assert.equal((await cli.call('sessions', { all: true })).sessions[0]?.state, 'killed')
  assert.deepEqual(stage.kinds(ID), ['session.start', 'file.denied', 'session.end'])
  await assert.rejects(
    run.call('session.open', stage.openArgs(ID)),
    { code: 'ERR_DAEMON_PEER' },
    'no second life',
  )
})

test('signs a checkpoint within about a second of activity, unasked', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const run = await stage.connect()
  await run.call('session.open', stage.openArgs(ID))
  const checkpoint = join(logDir(stage.paths), 'checkpoint')
  const size = (): string | undefined =>
    fs.existsSync(checkpoint) ? fs.readFileSync(checkpoint, 'utf8').split('\n')[1] : undefined
  await eventually(() => size() === '1', 15_000)
  assert.equal(size(), '1')
})

test('an order to a run that does not listen yet fails, and ends that link', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const run = await stage.connect()
  await run.call('session.open', stage.openArgs(ID))
  const cli = await stage.connect()
  await assert.rejects(
    cli.call('freeze', { id: ID }),
    { code: 'ERR_DAEMON_UNREACHABLE' },
    'before the run listens',
  )
})

test('an order is obeyed, and its failure travels to who asked', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const run = await stage.connect()
  const orders: string[] = []
  run.onPush(({ op, id, by }) => {
    orders.push(`${op} ${id} ${by}`)
    if (orders.length === 3) throw new Error('cannot')
  })
  await run.call('session.open', stage.openArgs(ID))
  const cli = await stage.connect()
  await cli.call('freeze', { id: ID })
  assert.equal((await cli.call('sessions', { all: false })).sessions[0]?.state, 'frozen')
  await cli.call('thaw', { id: ID })
  await assert.rejects(cli.call('freeze', { id: ID }), { code: 'ERR_INTERNAL' })
  const by = `uid ${process.getuid?.()}, pid ${process.pid}`
  assert.deepEqual(
    orders,
    ['session.freeze', 'session.thaw', 'session.freeze'].map((op) => `${op} ${ID} ${by}`),
  )
  await assert.rejects(cli.call('kill', { id: OTHER }), { code: 'ERR_SESSION_NOT_FOUND' })
  await assert.rejects(
    cli.call('session.close', { id: ID }),
    { code: 'ERR_SESSION_NOT_FOUND' },
    'not who opened it',
  )
  await assert.rejects(cli.call('shutdown', {}), { code: 'ERR_INPUT_INVALID' })
})

test('a kill does not depend on the run: one that does not obey is killed itself', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const cli = await stage.connect()
  const run = await startRun(stage, ID)
  const gone = once(run, 'exit')
  await cli.call('kill', { id: ID })
  assert.equal((await gone)[1], 'SIGKILL')
  await stage.state(ID, 'killed')
  // Who asked stands in the log: once as the order, before it was carried out, and in the end of the session.
  const by = `uid ${process.getuid?.()}, pid ${process.pid}`
  const said = [...readEvents(logDir(stage.paths), { session: ID })].map(({ message }) => message)
  assert.ok(
    said.some((text) => text.startsWith('session.kill ') && text.includes(by)),
    said.join('; '),
  )
  assert.ok(
    said.some((text) => text.startsWith('session killed: ') && text.includes(by)),
    said.join('; '),
  )
})

test('a frozen session is frozen still after the daemon was killed', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const run = await stage.connect()
  run.onPush(() => undefined)
  await run.call('session.open', stage.openArgs(ID))
  await (await stage.connect()).call('freeze', { id: ID })
  process.kill(run.daemon.pid, 'SIGKILL')
  const again = await stage.connect()
  await again.call('session.open', stage.openArgs(ID))
  assert.equal((await again.call('sessions', { all: false })).sessions[0]?.state, 'frozen')
})

test('A-18: a run that is killed is recorded as killed, with the requests that have no outcome', async (t) => {
  const stage = new Stage(t)
  const journal = stage.session(ID)
  const request = {
    k: 'http.request',
    flow: 1,
    method: 'POST',
    host: 'h',
    port: 443,
    path: '/',
    rule: 'network[0]',
    credential: null,
    label: 'internal',
    bytes: 1,
  } as const
  journal.append({ ...request, request: 1 })
  journal.append({
    k: 'http.response',
    flow: 1,
    request: 1,
    status: 200,
    bytesOut: 1,
    bytesIn: 1,
    ms: 1,
    scrubbed: 0,
  })
  journal.append({ ...request, request: 2 })
  const cli = await stage.connect()
  const run = await startRun(stage, ID)
  assert.equal((await cli.call('sessions', { all: false })).sessions[0]?.pid, run.pid)
  run.kill('SIGKILL')
  await stage.state(ID, 'killed')
  await cli.call('log.sync', {})
  assert.deepEqual(stage.kinds(ID), [
    'session.start',
    'http.request',
    'http.response',
    'http.request',
    'gap',
    'session.end',
  ])
})

test('a starter that died before its first call was killed; only one of another boot went with its machine', async (t) => {
  const stage = new Stage(t)
  const child = spawn('sleep', ['60'])
  const { pid = 0 } = child
  const born = birthOf(pid) ?? ''
  child.kill('SIGKILL')
  await once(child, 'exit')
  for (const [id, birth] of [
    [ID, born],
    [OTHER, born.replace(/^[^:]*/, 'another-boot')],
  ] as const) {
    stage.session(id)
    fs.writeFileSync(join(sessionDir(stage.paths, id), 'session.json'), JSON.stringify({ pid, born: birth }))
  }
  const cli = await stage.connect()
  await stage.state(ID, 'killed')
  await stage.state(OTHER, 'orphaned')
  await cli.call('log.sync', {})
  const reasons = [...readEvents(logDir(stage.paths))]
    .map(({ json }) => JSON.parse(json))
    .filter((event) => event.ambit.kind === 'session.end')
    .map((event) => [event.ambit.session, event.message])
  assert.deepEqual(reasons, [
    [ID, 'session killed: ambit run died without a word'],
    [OTHER, 'session killed: the machine went down'],
  ])
})

test('a killed daemon loses its sessions at once; the next one takes up the living and ends the dead', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const journal = stage.session(OTHER)
  const first = await stage.connect()
  const dying = await startRun(stage, ID)
  const run = await stage.connect()
  await run.call('session.open', stage.openArgs(OTHER))
  const lost = new Promise((resolve) => run.onLost(resolve))
  process.kill(first.daemon.pid, 'SIGKILL')
  assert.equal(((await lost) as { code: string }).code, 'ERR_DAEMON_UNREACHABLE')
  await assert.rejects(run.call('status', {}), { code: 'ERR_DAEMON_UNREACHABLE' })
  dying.kill('SIGKILL')
  await once(dying, 'exit')
  journal.append({ k: 'file.delete', path: '/meanwhile' })
  const again = await stage.connect()
  assert.notEqual(again.daemon.pid, first.daemon.pid)
  await again.call('session.open', stage.openArgs(OTHER))
  await again.call('session.close', { id: OTHER })
  await stage.state(ID, 'killed')
  await again.call('log.sync', {})
  assert.deepEqual(stage.kinds(OTHER), ['session.start', 'file.delete'])
  assert.deepEqual(stage.kinds(ID), ['session.start', 'session.end'])
  assert.equal((await verifyLog(logDir(stage.paths), loadVerifierKey(stage.paths))).ok, true)
})

test('ten starters at once get one daemon', async (t) => {
  const stage = new Stage(t)
  const clients = await Promise.all(Array.from({ length: 10 }, () => stage.connect()))
  assert.equal(new Set(clients.map(({ daemon }) => daemon.pid)).size, 1)
})

test('leaves when idle, and by itself removes its socket', async (t) => {
  const stage = new Stage(t)
  const { config, state, run } = stage.paths
  const main = join(import.meta.dirname, '../../src/daemon/main.ts')
  const child = spawn(process.execPath, [
    main,
    '--config',
    config,
    '--state',
    state,
    '--run',
    run,
    '--idle-ms',
    '500',
  ])
  const [code] = (await once(child, 'exit')) as [number]
  assert.equal(code, 0)
  assert.ok(!fs.existsSync(daemonSocket(stage.paths)))
})

test('a daemon whose socket was removed leaves, even with a session in its book', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const run = await startRun(stage, ID)
  const pid = await stage.daemonPid()
  fs.rmSync(daemonSocket(stage.paths))
  run.kill('SIGKILL')
  const end = Date.now() + 10_000
  while (birthOf(pid!) !== null) {
    assert.ok(Date.now() < end, 'it stays')
    await sleep(50)
  }
})

test('a session whose directory was removed is said as gaps and forgotten', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const cli = await stage.connect()
  const run = await startRun(stage, ID)
  await cli.call('log.sync', {})
  fs.rmSync(sessionDir(stage.paths, ID), { recursive: true })
  run.kill('SIGKILL')
  const end = Date.now() + 10_000
  while ((await cli.call('sessions', { all: false })).sessions.length > 0) {
    assert.ok(Date.now() < end, 'it is listed still')
    await sleep(50)
  }
  assert.deepEqual(stage.kinds(ID), ['session.start', 'gap'])
  assert.equal((await cli.call('status', {})).stalled, null)
})

test('refuses sessions while the log is inconsistent, says why, and does not touch it', async (t) => {
  const stage = new Stage(t)
  const first = await stage.connect()
  stage.session(ID)
  await first.call('session.open', stage.openArgs(ID))
  await first.call('session.close', { id: ID })
  await first.call('shutdown', {})
  await new Promise((resolve) => first.onLost(resolve))
  const tile = join(logDir(stage.paths), 'tile/0/000.p/1')
  const bytes = fs.readFileSync(tile)
  bytes[0]! ^= 1
  fs.writeFileSync(tile, bytes)
  const second = await stage.connect()
  stage.session(OTHER)
  await assert.rejects(second.call('session.open', stage.openArgs(OTHER)), { code: 'ERR_LOG_INCONSISTENT' })
  assert.match((await second.call('status', {})).broken ?? '', /not what was hashed|root/)
  assert.deepEqual(fs.readFileSync(tile), bytes)
})

test('refuses sessions when the key is another or gone', async (t) => {
  for (const harm of [
    (dir: string) => fs.rmSync(join(dir, 'log.key')),
    (dir: string) => fs.chmodSync(join(dir, 'log.key'), 0o644),
  ]) {
    const stage = new Stage(t)
    const first = await stage.connect()
    await first.call('shutdown', {})
    await new Promise((resolve) => first.onLost(resolve))
    harm(keysDir(stage.paths))
    stage.session(ID)
    await assert.rejects((await stage.connect()).call('session.open', stage.openArgs(ID)), {
      code: 'ERR_KEY_INVALID',
    })
  }
})

test('refuses a session whose process, directory or id is not what it says', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const cli = await stage.connect()
  const args = stage.openArgs(ID)
  await assert.rejects(cli.call('session.open', { ...args, pid: 1 }), { code: 'ERR_DAEMON_PEER' })
  await assert.rejects(cli.call('session.open', { ...args, dir: '/etc' }), { code: 'ERR_DAEMON_PEER' })
  await assert.rejects(
    cli.call('session.open', stage.openArgs(OTHER)),
    { code: 'ERR_DAEMON_PEER' },
    'no directory',
  )
  await cli.call('session.open', args)
  await assert.rejects(cli.call('session.open', args), { code: 'ERR_DAEMON_PEER' }, 'open already')
  await assert.rejects(
    cli.call('session.open', { ...args, id: '../../../etc' }),
    { code: 'ERR_DAEMON_UNREACHABLE' },
    'not an id: the link is closed',
  )
})

test('T-12: a malformed or unexpected frame closes the link, and the daemon lives', async (t) => {
  const stage = new Stage(t)
  const cli = await stage.connect()
  const call = (op: string, args: unknown, id = 2) => encodeFrame({ id, op, args })
  const bad: [string, Buffer[]][] = [
    ['no hello', [call('status', {})]],
    ['hello twice', [HELLO, call('hello', { v: 1, version: 'x' })]],
    ['another protocol', [encodeFrame({ id: 1, op: 'hello', args: { v: 2, version: 'x' } })]],
    ['unknown operation', [HELLO, call('session.steal', {})]],
    ['an operation of the prototype', [HELLO, call('constructor', {})]],
    ['null', [HELLO, encodeFrame(null)]],
    ['a list', [HELLO, encodeFrame([])]],
    ['an unknown field', [HELLO, encodeFrame({ id: 2, op: 'status', args: {}, more: 1 })]],
    ['an unknown argument', [HELLO, call('status', { more: 1 })]],
    ['arguments of another type', [HELLO, call('kill', { id: 7 })]],
    ['id 0', [HELLO, call('status', {}, 0)]],
    ['an answer to nothing', [HELLO, encodeFrame({ re: 9, value: {} })]],
    ['a length over 1 MiB', [HELLO, Buffer.from([1, 0, 16, 0])]],
    ['duplicate keys', [HELLO, Buffer.from('\x26\0\0\0{"id":2,"id":3,"op":"status","args":{}}', 'latin1')]],
    ['a flood', [HELLO, ...Array.from({ length: 200 }, (_, i) => call('log.sync', {}, i + 2))]],
  ]
  for (const [name, frames] of bad) {
    const socket = await stage.raw()
    socket.on('error', () => undefined)
    socket.resume()
    socket.write(Buffer.concat(frames)) // at once: a daemon that keeps pace with a flood need not end it
    const late = sleep(20_000, undefined, { ref: false }).then(() => assert.fail(`${name}: link still open`))
    await Promise.race([closed(socket), late])
  }
  let seed = 7
  for (let round = 0; round < 60; round++) {
    const socket = await stage.raw()
    socket.on('error', () => undefined)
    socket.resume()
    const noise = Buffer.from(HELLO)
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31
    noise[seed % noise.length]! ^= 1 << ((seed >> 8) % 8)
    socket.end(noise)
    await closed(socket)
  }
  const good = await stage.raw()
  good.write(HELLO)
  await once(good, 'data')
  good.destroy()
  assert.equal((await cli.call('status', {})).sessions, 0)
})

test('a peer that is slow or silent holds nobody up', async (t) => {
  const stage = new Stage(t)
  const cli = await stage.connect()
  const slow = await stage.raw()
  slow.write(HELLO.subarray(0, 5))
  assert.equal((await cli.call('status', {})).sessions, 0)
  slow.destroy()
})

test('T-11: refuses a socket directory that is a link, foreign or open to others; takes a stale socket over', async (t) => {
  const stage = new Stage(t)
  const { run } = stage.paths
  fs.mkdirSync(`${run}-real`, { mode: 0o700, recursive: true })
  fs.symlinkSync(`${run}-real`, run)
  await assert.rejects(stage.connect(), { code: 'ERR_DAEMON_PEER' })
  fs.rmSync(run)
  fs.mkdirSync(run, { mode: 0o755 })
  fs.chmodSync(run, 0o755)
  await assert.rejects(stage.connect(), { code: 'ERR_DAEMON_PEER' })
  if (process.getuid?.() === 0) {
    fs.chmodSync(run, 0o700)
    fs.chownSync(run, 12_345, 12_345)
    await assert.rejects(stage.connect(), { code: 'ERR_DAEMON_PEER' })
    fs.chownSync(run, 0, 0)
  }
  fs.chmodSync(run, 0o700)
  // A socket that a killed daemon left, and a link in its place.
  spawnSync(process.execPath, [
    '-e',
    `require('net').createServer().listen('${daemonSocket(stage.paths)}', () => process.kill(process.pid, 9))`,
  ])
  assert.ok(fs.existsSync(daemonSocket(stage.paths)))
  const client = await stage.connect()
  assert.equal((await client.call('status', {})).sessions, 0)
})

test('a daemon socket path may be longer than a socket address', async (t) => {
  const stage = new Stage(t)
  const deep = join(stage.paths.run, 'd'.repeat(100))
  const client = await connectDaemon({ ...stage.paths, run: deep })
  assert.ok(fs.existsSync(join(deep, 'ambitd.sock')))
  assert.equal((await client.call('status', {})).sessions, 0)
  await client.call('shutdown', {})
})

test('the session that began last is asked about, also of two in one second', async (t) => {
  const stage = new Stage(t)
  const run = await stage.connect()
  const [first, second] = ['s00abcdef-zzzzzz', 's00abcdef-000000']
  for (const [index, id] of [first, second].entries()) {
    stage.session(id)
    await run.call('session.open', { ...stage.openArgs(id), startedAt: 1000 + index })
    await run.call('session.close', { id })
  }
  assert.equal(lastSession(stage.paths), second)
})

test('a session is listed with the outcome that it told', async (t) => {
  const stage = new Stage(t)
  const journal = stage.session(ID)
  const run = await stage.connect()
  await run.call('session.open', stage.openArgs(ID))
  journal.append({ k: 'session.end', outcome: 'refused', exit: 126, reason: 'no way' })
  await run.call('session.close', { id: ID })
  assert.equal(loadRecord(stage.paths, ID)?.state, 'refused')
})

test('records outlive the daemon and hold no session twice', async (t) => {
  const stage = new Stage(t)
  stage.session(ID)
  const run = await stage.connect()
  await run.call('session.open', stage.openArgs(ID))
  await run.call('session.close', { id: ID })
  const record = loadRecord(stage.paths, ID)
  assert.deepEqual([record?.state, record?.counters], ['ended', { 'session.start': 1 }])
  assert.ok(fs.existsSync(join(sessionDir(stage.paths, ID), 'sealed.json')))
  for (let life = 0; life < 2; life++) {
    const pid = await stage.daemonPid()
    process.kill(pid!, 'SIGKILL')
    await (await stage.connect()).call('log.sync', {})
    assert.deepEqual(stage.kinds(ID), ['session.start'])
  }
})
