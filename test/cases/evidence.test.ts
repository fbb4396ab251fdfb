/** A: what the record survives, and what it looks like when somebody tampers, through the built command. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { attack, attackIn, once } from '../support/case.ts'
import { makeClock } from '../support/clock.ts'
import { daemonsOf, endProcesses, eventually, kill, processesWith } from '../support/processes.ts'
import { RUNTIME } from '../support/runtime.ts'
import { describe, type RunOptions, Stage } from '../support/stage.ts'
import { type Answer, serveHttps, type Upstream } from '../support/upstream.ts'
import { type As, identity } from '../support/users.ts'

const strace = fs.existsSync('/usr/bin/strace') ? null : 'needs strace'

/** A new daemon begins only when both are gone. */
const daemonsAndHostsOf = (stage: Stage): number[] => daemonsOf(stage, /ambitd\.cjs|session-host/)

async function endDaemon(stage: Stage): Promise<void> {
  for (const pid of daemonsAndHostsOf(stage)) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It went with its daemon.
    }
  }
  assert.ok(await eventually(() => daemonsAndHostsOf(stage).length === 0), 'the daemon ends')
}

async function verified(stage: Stage, options: RunOptions = {}): Promise<string> {
  const ran = await stage.ambit(['log', 'verify'], options)
  assert.equal(ran.code, 0, describe(ran))
  return ran.stdout
}

/** A session that was cut off with its daemon: what its journals hold is in no log. Gives its id. */
async function cutOff(stage: Stage): Promise<string> {
  let pid = 0
  const running = stage.session(
    ['/bin/sh', '-c', 'for n in 1 2 3 4 5; do echo x > cut-$n; done; echo ready; sleep 30'],
    {
      onStart: (child) => (pid = child),
    },
  )
  const wal = (): string | undefined =>
    fs
      .globSync('state/sessions/*/journal/view.wal', { cwd: stage.ambitHome })
      .find((path) => fs.readFileSync(join(stage.ambitHome, path), 'latin1').includes('cut-5'))
  assert.ok(await eventually(() => wal() !== undefined, 20_000), 'control: the session writes')
  const id = wal()?.split('/')[2] ?? ''
  // All at once: a session that outlives its daemon starts another.
  for (const part of [pid, ...daemonsAndHostsOf(stage)]) kill(part)
  await running
  await endDaemon(stage)
  await eventually(() => processesWith(stage.root).length === 0)
  return id
}

/** Ends of a journal as a power cut leaves them, by what was in its last sectors. */
const CUTS: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  'cut within the last record': (bytes) => bytes.subarray(0, bytes.length - 7),
  'cut within a head': (bytes) => bytes.subarray(0, lastRecord(bytes) + 5),
  'a length without data': (bytes) => Buffer.concat([bytes, Buffer.from([200, 0, 0, 0])]),
  'zeros behind the end': (bytes) => Buffer.concat([bytes, Buffer.alloc(4096)]),
  'the last sector zero': (bytes) => Buffer.concat([bytes.subarray(0, -300), Buffer.alloc(300)]),
  'the last sector garbled': (bytes) => Buffer.concat([bytes.subarray(0, -300), Buffer.alloc(300, 0xa5)]),
  'nothing but the name': () => Buffer.alloc(0),
}

function lastRecord(bytes: Buffer): number {
  let at = 8
  for (let next = at; next + 8 <= bytes.length; next = at + 8 + bytes.readUInt32LE(at)) at = next
  return at
}

attack('A-02', 'a journal torn by a power cut loses its torn end and nothing before it', async (as) => {
  const stage = new Stage(as)
  const id = await cutOff(stage)
  const journal = (home: string): string => join(home, 'state/sessions', id, 'journal/view.wal')
  const whole = fs.readFileSync(journal(stage.ambitHome))
  let n = 0
  for (const [name, cut] of Object.entries(CUTS)) {
    const home = join(stage.root, `home-${++n}`)
    fs.cpSync(join(stage.ambitHome, 'state'), join(home, 'state'), { recursive: true })
    const torn = cut(whole)
    fs.writeFileSync(journal(home), torn)
    give(home, as)
    const env = { AMBIT_HOME: home }
    const ran = await stage.ambit(['log', '--json', '--session', id], { env })
    assert.equal(ran.code, 0, `${name}: ${describe(ran)}`)
    await verified(stage, { env })
    const events = ran.stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
    const kept = events.filter((event) => event.ambit.journal === 'view' && event.ambit.kind !== 'gap')
    assert.equal(kept.length, wholeRecords(torn), `${name}: every whole record is in the log`)
    const gaps = events.filter((event) => event.ambit.kind === 'gap').length
    if (torn.length > 0) assert.equal(gaps, 1, `${name}: the loss is said`)
    assert.equal(events.filter((event) => event.ambit.kind === 'session.end').length, 1, name)
    const next = await stage.session(['/bin/echo', 'it-runs'], { env })
    assert.match(next.stdout, /it-runs/, `${name}: ${describe(next)}`)
    endProcesses(home)
  }
  return `${n} torn journals, no whole record lost`
})

/** Records of `bytes` up to the first that is not whole, as a reader that knows only the format counts them. */
function wholeRecords(bytes: Buffer): number {
  let count = 0
  for (let at = 8; at + 8 <= bytes.length; count++) {
    const length = bytes.readUInt32LE(at)
    const payload = bytes.subarray(at + 8, at + 8 + length)
    if (length === 0 || payload.length < length || !isJson(payload)) return count
    at += 8 + length
  }
  return count
}

function isJson(bytes: Buffer): boolean {
  try {
    JSON.parse(bytes.toString())
    return true
  } catch {
    return false
  }
}

function give(path: string, as: As): void {
  const { uid, gid } = identity(as)
  if (uid === undefined || gid === undefined) return
  fs.lchownSync(path, uid, gid)
  if (fs.lstatSync(path).isDirectory()) for (const name of fs.readdirSync(path)) give(join(path, name), as)
}

/** A daemon of the stage, started by hand below `wrapper`. */
async function daemonBelow(
  stage: Stage,
  wrapper: readonly string[],
  env: Record<string, string> = {},
): Promise<void> {
  const build = join(stage.product.root, 'ambit/.build')
  const [program, ...args] = [...wrapper, join(build, 'node'), join(build, 'ambitd.cjs')]
  fs.mkdirSync(join(stage.ambitHome, 'run'), { recursive: true, mode: 0o700 })
  give(stage.ambitHome, stage.as)
  const child = spawn(program, args, {
    ...identity(stage.as),
    cwd: stage.project,
    env: { ...stage.environment(), ...env },
    stdio: 'ignore',
  })
  child.unref()
  const socket = join(stage.ambitHome, 'run/ambitd.sock')
  assert.ok(await eventually(() => fs.existsSync(socket), 20_000), 'the daemon listens')
}

attackIn(strace)('A-03', 'every name that the log gives is made durable in its directory', async (as) => {
  const stage = new Stage(as)
  const trace = join(stage.outside, 'trace')
  await daemonBelow(stage, ['strace', '-f', '-y', '-o', trace, '-e', 'trace=rename,fsync'])
  const ran = await stage.session(['/bin/sh', '-c', 'echo x > file'], { timeout: 60_000 })
  assert.equal(ran.code, 0, describe(ran))
  await verified(stage)
  const lines = fs.readFileSync(trace, 'utf8').split('\n')
  const renames = lines.flatMap((line, at) => {
    const to = /rename\("[^"]+", "([^"]+)"/.exec(line)?.[1]
    return to?.startsWith(join(stage.ambitHome, 'state')) ? [{ to, at }] : []
  })
  assert.ok(renames.length >= 5, `control: the log renames files\n${lines.slice(0, 20).join('\n')}`)
  for (const { to, at } of renames) {
    const dir = to.slice(0, to.lastIndexOf('/'))
    assert.ok(
      lines.slice(at).some((line) => line.includes(`fsync(`) && line.includes(`<${dir}>`)),
      `${to} is not synced in ${dir}`,
    )
  }
  return `${renames.length} renames, each directory synced`
})

attackIn(strace)(
  'A-05',
  'a sync that fails once ends the writer; the next one verifies and goes on',
  async (as) => {
    const stage = new Stage(as)
    await stage.session(['/bin/true'])
    await endDaemon(stage)
    // The tenth fsync of the log's writer fails with EIO, in the kernel's own words. strace counts for each thread.
    await daemonBelow(
      stage,
      ['strace', '-f', '-o', '/dev/null', '-e', 'trace=fsync', '-e', 'inject=fsync:error=EIO:when=10'],
      { UV_THREADPOOL_SIZE: '1' },
    )
    const [first] = daemonsAndHostsOf(stage)
    const ran = await stage.session(
      ['/bin/sh', '-c', 'for n in 1 2 3; do echo x > f$n; sleep 0.7; done; echo done'],
      {
        timeout: 60_000,
      },
    )
    assert.match(
      ran.stdout,
      /done/,
      `the session stands still and goes on with the next daemon\n${describe(ran)}`,
    )
    // strace goes when the last that it follows is gone, which is the host of this session.
    const gone = (): boolean => first !== undefined && !daemonsAndHostsOf(stage).includes(first)
    assert.ok(await eventually(gone), 'the writer that saw it went on')
    await verified(stage)
    const { session } = ran.summary
    const wrote = (await stage.events(session)).filter((event) => event.ambit.kind === 'file.write')
    const names = new Set(wrote.map((event) => event.file.name))
    assert.deepEqual(names, new Set(['f1', 'f2', 'f3']))
    // gVisor closes a file once for each of two handles of its own, and each is a record; none is in the log twice.
    assert.equal(new Set(wrote.map((event) => event.ambit.offset)).size, wrote.length)
    return 'that writer ended, 3 of 3 writes recorded by the next'
  },
)

attack('A-07', 'no configuration switches the record off', async (as) => {
  const stage = new Stage(as)
  for (const spec of [{ audit: 'none' }, { log: { sinks: [] } }, { record: false }]) {
    const ran = await stage.session(['/bin/echo', 'it-ran'], { spec })
    assert.equal(ran.code, 125, `${JSON.stringify(spec)}: ${describe(ran)}`)
    assert.doesNotMatch(ran.stdout, /it-ran/)
  }
  const env = { AMBIT_LOG: 'off', AMBIT_AUDIT: 'none', AMBIT_NO_LOG: '1' }
  const ran = await stage.session(['/bin/echo', 'it-ran'], { env })
  assert.match(ran.stdout, /it-ran/, `control: ${describe(ran)}`)
  const kinds = (await stage.events(ran.summary.session)).map((event) => event.ambit.kind)
  assert.ok(kinds.includes('session.start') && kinds.includes('session.end'), kinds.join())
  await endDaemon(stage)
  // The log's place taken by something that takes no log: no session.
  const log = join(stage.ambitHome, 'state/log')
  fs.renameSync(log, `${log}.kept`)
  fs.symlinkSync('/dev/null', log)
  const refused = await stage.session(['/bin/echo', 'it-ran'])
  assert.equal(refused.code, 125, describe(refused))
  assert.doesNotMatch(refused.stdout, /it-ran/)
  fs.rmSync(log)
  fs.renameSync(`${log}.kept`, log)
  await endDaemon(stage)
  const again = await stage.session(['/bin/echo', 'it-ran'])
  assert.match(again.stdout, /it-ran/, describe(again))
  return '3 profiles, 3 variables, 1 log at /dev/null: refused or without effect'
})

attack(
  'A-11',
  'a missing or broken tile is reported, refuses sessions, and is never made anew',
  async (as) => {
    const stage = new Stage(as)
    const many = await stage.session(['/bin/sh', '-c', 'for n in $(seq 150); do echo x > f$n; done'])
    assert.equal(many.code, 0, describe(many))
    await verified(stage)
    await endDaemon(stage)
    const log = join(stage.ambitHome, 'state/log')
    const kept = join(stage.root, 'kept')
    fs.cpSync(log, kept, { recursive: true })
    const size = Number(fs.readFileSync(join(log, 'checkpoint'), 'utf8').split('\n')[1])
    // Partial tiles of earlier checkpoints are nobody's loss.
    const isCurrent = (path: string): boolean =>
      !path.includes('.p/') || [size % 256, Math.floor(size / 256)].includes(Number(path.split('.p/')[1]))
    const tiles = fs
      .globSync('tile/**/*', { cwd: log })
      .filter((path) => fs.statSync(join(log, path)).isFile() && isCurrent(path))
    assert.ok(
      tiles.some((path) => !path.includes('.p/')),
      `control: there is a full tile: ${tiles.join()}`,
    )
    // The tiles of the right edge are looked at by every start; full ones only by verify.
    for (const path of tiles) {
      const bytes = fs.readFileSync(join(log, path))
      for (const damage of ['gone', 'half'] as const) {
        if (damage === 'gone') fs.rmSync(join(log, path))
        else fs.writeFileSync(join(log, path), bytes.subarray(0, bytes.length / 2))
        const ran = await stage.ambit(['log', 'verify'])
        assert.notEqual(ran.code, 0, `${path} ${damage} went unseen`)
        assert.match(ran.stderr, /^ambit: .*tile\//m, `${path} ${damage}: ${ran.stderr}`)
        if (damage === 'gone') assert.ok(!fs.existsSync(join(log, path)), `${path} was made anew`)
        else assert.equal(fs.statSync(join(log, path)).size, Math.floor(bytes.length / 2))
        if (path.includes('.p/')) {
          const refused = await stage.session(['/bin/echo', 'it-ran'])
          assert.equal(refused.code, 125, `${path} ${damage}: ${describe(refused)}`)
        }
        await endDaemon(stage)
        fs.rmSync(log, { recursive: true })
        fs.cpSync(kept, log, { recursive: true })
        give(log, as)
      }
    }
    await verified(stage)
    return `${tiles.length} tiles, gone and cut: all reported, none rebuilt`
  },
)

const YEAR = 365 * 86_400

/** Every request is another connection, whose certificate is looked at. */
const once200: Answer = (_, response) => response.setHeader('connection', 'close').end('hello')

/** One whose certificate is valid wherever the clock jumps to, and one whose is not. */
const clocked = once(async () => {
  const servers = {
    lasting: await serveHttps(['lasting.internal'], { answer: once200, valid: [2 * YEAR, 2 * YEAR] }),
    brief: await serveHttps(['brief.internal'], { answer: once200 }),
  }
  open.push(...Object.values(servers))
  return Object.entries(servers)
})

const open: Upstream[] = []
after(() => open.forEach((server) => server.close()))

const TICKS = 12

attack('A-14', 'a wall clock that jumps ends nothing, hurries nothing and reorders nothing', async (as) => {
  const stage = new Stage(as)
  const clock = makeClock(stage.outside)
  const env = { LD_PRELOAD: clock.library }
  await daemonBelow(stage, [], env)
  const isolation = { runtime: 'os-sandbox', limits: 'partly', wallclock: '1m' }
  const servers = await clocked(null)
  const network = servers.map(([name, { ca, port }]) => {
    fs.writeFileSync(join(stage.root, `${name}.pem`), ca, { mode: 0o644 })
    return { host: `${name}.internal`, connect: `127.0.0.1:${port}`, ca: join(stage.root, `${name}.pem`) }
  })
  const ask = 'curl -sS -m 10 -o /dev/null -w "$h %{http_code}\\n" https://$h.internal/$n'
  const script = `for n in $(seq ${TICKS}); do echo x > tick-$n; for h in lasting brief; do ${ask}; done; sleep 0.25; done; echo done`
  // Node itself: the command drops what would load a library into it.
  const build = join(stage.product.root, 'ambit/.build')
  const run = stage.run(['/bin/sh', '-c', script], stage.profile({ isolation, network }))
  const running = stage.command([join(build, 'node'), join(build, 'ambit.cjs'), ...run], {
    env,
    timeout: 60_000,
  })
  const ticks = (): number => fs.readdirSync(stage.project).filter((name) => name.startsWith('tick-')).length
  for (const [seconds, from] of [
    [YEAR, 2],
    [-86_400, 5],
    [YEAR, 8],
    [-86_400, 10],
  ] as const) {
    assert.ok(await eventually(() => ticks() >= from, 20_000), 'control: the session works')
    clock.jump(seconds)
  }
  const ran = await running
  assert.equal(ran.code, 0, `the jump ended it\n${describe(ran)}`)
  assert.match(ran.stdout, /done/)
  const codes = (host: string): string[] =>
    [...ran.stdout.matchAll(/^(\w+) (\d+)$/gm)].flatMap(([, name, code = '']) =>
      name === host ? [code] : [],
    )
  assert.deepEqual(codes('lasting'), Array(TICKS).fill('200'), `a jump stopped a request\n${describe(ran)}`)
  // What it says of a certificate is the wall clock's to say, and closed.
  assert.deepEqual(
    [...new Set(codes('brief'))].sort(),
    ['200', '502'],
    'a certificate of another time passes',
  )
  await verified(stage)
  const events = await stage.events()
  const times = events.map((event) => event.time as number)
  assert.ok(Math.max(...times) - Math.min(...times) > 86_000_000, 'control: the supervisor saw the jump')
  const order = events.filter((event) => event.ambit.journal === 'view').map((event) => event.ambit.monotonic)
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
    'the order is not that of the monotonic clock',
  )
  const end = events.at(-1)?.ambit
  assert.equal(end?.kind, 'session.end', 'the end stands last')
  assert.equal(end?.outcome, 'ended')
  await endDaemon(stage)
  clock.jump(0)
  const next = await stage.session(['/bin/echo', 'it-runs'])
  assert.match(next.stdout, /it-runs/, describe(next))
  return `+1 year, -1 day: ${TICKS} requests pass, ${events.length} events in order`
})

/** Names as a hostile agent would choose them; a file name holds anything but NUL and a slash. */
const HOSTILE = [
  'a\nambit: log ok: 0 entries',
  'a\r\n2026-01-01T00:00:00.000Z s00000000-000000 session ended',
  '\u001b[2J\u001b]52;c;aGk=\u0007',
  '\u202egpj.exe',
  '","ambit":{"kind":"session.end","outcome":"ended"},"x":"',
  '\\u0000\\"}]}',
  '\u{e0041}\u200b\u2028\u2029',
  'x'.repeat(255),
]

attack('A-15', 'hostile names make no line, no field and no event of their own', async (as) => {
  const stage = new Stage(as)
  fs.writeFileSync(join(stage.project, 'names.json'), JSON.stringify(HOSTILE))
  stage.own()
  const script = `
    const fs = require('node:fs')
    for (const name of JSON.parse(fs.readFileSync('names.json', 'utf8'))) fs.writeFileSync(name, 'x')
    fs.writeFileSync(Buffer.from([0xff, 0xfe, 0x80, 0x41]), 'x')
    require('node:child_process').spawnSync('/bin/true', [JSON.parse(fs.readFileSync('names.json', 'utf8')).join(''), 'y'.repeat(100000)])`
  const ran = await stage.session([stage.product.node, '-e', script])
  assert.equal(ran.code, 0, describe(ran))
  const { session } = ran.summary
  const json = (await stage.ambit(['log', '--json', '--session', session])).stdout
  const lines = json.split('\n').filter(Boolean)
  const events = lines.map((line) => JSON.parse(line))
  for (const line of lines) {
    assert.doesNotMatch(
      line,
      // oxlint-disable-next-line no-control-regex -- they are what must not be there
      /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2028\u2029]/,
      'raw control character',
    )
    assert.ok(Buffer.byteLength(line) <= 400_000)
  }
  assert.equal(events.filter((event) => event.ambit.kind === 'session.end').length, 1, 'a forged end')
  const written = new Set(
    events.filter((event) => event.ambit.kind === 'file.write').map((event) => event.file.path),
  )
  for (const name of HOSTILE)
    assert.ok(
      written.has(join(stage.project, name.replaceAll('\\', '\\\\'))),
      `recorded as it is: ${JSON.stringify(name)}`,
    )
  const text = (await stage.ambit(['log', '--session', session])).stdout.split('\n').filter(Boolean)
  assert.equal(text.length, events.length, 'one line an event')
  for (const line of text)
    assert.match(line, /^[0-9]{4}-[0-9-]+T[0-9:.]+Z s[0-9a-z-]+ [^\p{Cc}\p{Bidi_C}]*$/u, line)
  await verified(stage)
  return `${HOSTILE.length + 1} names and long arguments: ${events.length} events, ${text.length} lines`
})

attack('A-16', 'a flood of refusals is bounded on disk and counted in full', async (as) => {
  const stage = new Stage(as, { files: { '.env': 'SECRET=1' }, spec: { hide: ['**/.env'] } })
  const count = 20_000
  const script = `
    const fs = require('node:fs')
    for (let n = 0; n < ${count}; n++) try { fs.writeFileSync('.env', 'x') } catch {}
    for (let n = 0; n < 300; n++) try { fs.writeFileSync('sub-' + n + '/.env', 'x') } catch {}
    fs.writeFileSync('after', 'x')`
  const ran = await stage.session([stage.product.node, '-e', script])
  assert.equal(ran.code, 0, describe(ran))
  const events = await stage.events(ran.summary.session)
  const refusals = events.filter(
    (event) => event.ambit.kind === 'file.denied' && event.file.path.endsWith('/project/.env'),
  )
  const sum = refusals.reduce((total, event) => total + Number(event.count ?? 1), 0)
  // Opening may try more than once what it is refused; gVisor's Gofer asks twice for each file that is to be made.
  const most = count * (RUNTIME === 'container' ? 2 : 1) + 10
  assert.ok(sum >= count && sum <= most, `${sum} of ${count} refusals are counted`)
  assert.ok(refusals.length < 2000, `${refusals.length} events for one thing repeated`)
  const journals = join(stage.ambitHome, 'state/sessions', ran.summary.session, 'journal')
  const bytes = fs
    .readdirSync(journals)
    .reduce((total, name) => total + fs.statSync(join(journals, name)).size, 0)
  assert.ok(bytes < 2 * 2 ** 20, `${bytes} bytes of journal`)
  assert.ok(
    events.some((event) => event.ambit.kind === 'file.write' && event.file.path.endsWith('/after')),
    'nothing else was dropped',
  )
  return `${count} refusals: ${refusals.length} events that count ${sum}, ${Math.round(bytes / 1024)} KiB`
})
