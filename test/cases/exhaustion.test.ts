/** A and Q: inodes and descriptors run out, the disk hangs, a part crashes on purpose. Closed, said, and over when it is over. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { type Socket, connect } from 'node:net'
import { join } from 'node:path'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { labMissing } from '../support/lab.ts'
import { attackIn, once } from '../support/case.ts'
import { attack, goodHost } from '../support/net-stage.ts'
import { daemonsOf, eventually, kill } from '../support/processes.ts'
import { describe, Stage } from '../support/stage.ts'
import { account, type As, identity } from '../support/users.ts'

/** When each request arrived. */
const times = new Map<string, number>()

const world = once(async () => {
  const { good } = await goodHost((request, response) => {
    times.set(request.url, performance.now())
    response.end('hello')
  })
  return good
})

after(() => setTimeout(() => process.exit(), 100).unref())

async function makeStage(as: As): Promise<Stage> {
  const good = await world(null)
  const stage = new Stage(as)
  fs.writeFileSync(join(stage.root, 'ca.pem'), good.ca, { mode: 0o644 })
  return stage
}

const network = (stage: Stage, more: Record<string, unknown> = {}): Record<string, unknown> => ({
  network: [{ host: 'good.test', ca: join(stage.root, 'ca.pem') }],
  ...more,
})

async function assertVerified(stage: Stage): Promise<void> {
  const ran = await stage.ambit(['log', 'verify'])
  assert.equal(ran.code, 0, describe(ran))
}

const arrived = async (mark: string): Promise<number> =>
  (await world(null)).requests.filter((request) => request.url.startsWith(`/${mark}/`)).length

async function recorded(stage: Stage, mark: string): Promise<number> {
  const events = await stage.events()
  return events.filter(
    (event) => event.ambit.kind === 'http.request' && event.http_request.url.path.startsWith(`/${mark}/`),
  ).length
}

attack(
  'A-04',
  'with no inode left nothing is lost, no session starts, and it is over when there are some',
  async (as) => {
    const stage = await makeStage(as)
    const { uid, gid } = account(as)
    const options = `size=64m,nr_inodes=3000,uid=${uid},gid=${gid},mode=700`
    spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', stage.ambitHome])
    try {
      const control = await stage.session(['/bin/echo', 'it-ran'])
      assert.match(control.stdout, /it-ran/, `control: ${describe(control)}`)
      const running = stage.session(['/bin/sh', '-c', 'echo a > first; sleep 3; echo b > second; echo wrote'])
      assert.ok(
        await eventually(() => fs.existsSync(join(stage.project, 'first')), 20_000),
        'control: it works',
      )
      const filler = join(stage.ambitHome, 'filler')
      fs.mkdirSync(filler)
      let n = 0
      try {
        for (; ; n++) fs.writeFileSync(join(filler, String(n)), '')
      } catch {
        // Full.
      }
      assert.ok(n > 100, 'control: inodes were there to be taken')
      const ran = await running
      assert.ok([0, 125].includes(ran.code ?? -1), describe(ran))
      const refused = await stage.session(['/bin/echo', 'it-ran'])
      assert.equal(refused.code, 125, describe(refused))
      assert.doesNotMatch(refused.stdout, /it-ran/)
      assert.match(refused.stderr, /^ambit: .*ENOSPC/m, refused.stderr)
      fs.rmSync(filler, { recursive: true })
      const next = await stage.session(['/bin/echo', 'it-ran'])
      assert.match(next.stdout, /it-ran/, `when there are some: ${describe(next)}`)
      await assertVerified(stage)
      const written = (await stage.events())
        .filter((event) => event.ambit.kind === 'file.write')
        .map((event) => event.file.name)
      if (ran.stdout.includes('wrote'))
        assert.ok(written.includes('first') && written.includes('second'), written.join())
      return `${n} inodes taken: session ended ${ran.code}, next refused, then works; all recorded`
    } finally {
      for (const pid of daemonsOf(stage)) kill(pid)
      await sleep(200)
      spawnSync('umount', ['-l', stage.ambitHome])
    }
  },
)

/** Opens `count` connections at once and holds them, then makes one plain request after the other. */
const GREEDY = `
const tls = require('node:tls'), https = require('node:https'), [mark, count] = process.argv.slice(1)
const held = Array.from({ length: Number(count) }, () => tls.connect({ host: 'good.test', port: 443, servername: 'good.test' }).on('error', () => {}))
const ask = (n) => new Promise((done) => https.get('https://good.test/' + mark + '/' + n, { agent: false, timeout: 15000 }, (answer) => answer.resume().on('end', () => done(answer.statusCode))).on('error', (error) => done(error.code)).on('timeout', function () { this.destroy() }))
setTimeout(async () => {
  console.log('during ' + await ask(0))
  for (const socket of held) socket.destroy()
  // The other side frees them when it sees them closed.
  let after
  for (let tick = 0; tick < 20 && after !== 200; tick++) {
    await new Promise((done) => setTimeout(done, 1500))
    after = await ask(1)
  }
  console.log('after ' + after)
  process.exit(0)
}, 1500)
`

attack(
  'Q-14',
  'with no descriptor left the gate stays shut, and opens again when there are some',
  async (as) => {
    const stage = await makeStage(as)
    const mark = `fds-${as}`
    const greedy = [stage.product.node, '-e', GREEDY, mark, '120']
    const argv = [stage.product.ambit, ...stage.run(greedy, stage.profile(network(stage)))]
    // Whoever has other limits than a warm host is served cold: the limit is the supervisor's own.
    const ran = await stage.command(['/bin/sh', '-c', 'ulimit -n 96; exec "$@"', 'sh', ...argv], {
      timeout: 120_000,
    })
    assert.ok([0, 125].includes(ran.code ?? -1), describe(ran))
    if (ran.code === 0) assert.match(ran.stdout, /after 200/, `the slots come back: ${describe(ran)}`)
    else assert.match(ran.stderr, /^ambit: /m, describe(ran))
    await assertVerified(stage)
    assert.ok(
      (await recorded(stage, mark)) >= (await arrived(mark)),
      'a request arrived that is not recorded',
    )
    const plain = await stage.session([stage.product.node, '-e', GREEDY, `${mark}-plain`, '4'], {
      spec: network(stage),
    })
    assert.match(plain.stdout, /during 200[^]*after 200/, `control: ${describe(plain)}`)
    return `exit ${ran.code}, ${ran.stdout.trim().replaceAll('\n', ', ')}`
  },
)

attack('Q-14', 'a daemon without descriptors holds nobody for ever, and serves again', async (as) => {
  const stage = await makeStage(as)
  const build = join(stage.product.root, 'ambit/.build')
  fs.mkdirSync(join(stage.ambitHome, 'run'), { recursive: true, mode: 0o700 })
  const { uid, gid } = account(as)
  fs.chownSync(join(stage.ambitHome, 'run'), uid, gid)
  const limit = ['-c', 'ulimit -n 48; exec "$@"', 'sh', join(build, 'node'), join(build, 'ambitd.cjs')]
  const child = spawn('/bin/sh', limit, {
    ...identity(as),
    env: stage.environment(),
    cwd: '/',
    stdio: 'ignore',
  })
  child.unref()
  const socket = join(stage.ambitHome, 'run/ambitd.sock')
  assert.ok(await eventually(() => fs.existsSync(socket), 20_000), 'the daemon listens')
  const held: Socket[] = []
  for (let n = 0; n < 100; n++) held.push(connect(socket).on('error', () => undefined))
  await sleep(500)
  const during = await stage.ambit(['sessions'], { timeout: 30_000 })
  assert.equal(during.signal, null, `ambit sessions hangs\n${describe(during)}`)
  if (during.code !== 0) assert.match(during.stderr, /^ambit: /m, describe(during))
  for (const one of held) one.destroy()
  await sleep(500)
  const ran = await stage.session(['/bin/echo', 'it-ran'])
  assert.match(ran.stdout, /it-ran/, describe(ran))
  await assertVerified(stage)
  return `100 links held: sessions ended ${during.code}; then works`
})

const UPLOAD = `
const fs = require('node:fs'), https = require('node:https'), mark = process.argv[1]
const put = (n) => new Promise((done) => https.request('https://good.test/' + mark + '/' + n, { method: 'POST', agent: false }, (answer) => answer.resume().on('end', () => done(answer.statusCode))).on('error', (error) => done(error.code)).end('x'.repeat(40000)))
const go = async () => {
  console.log('first ' + await put(0))
  fs.writeFileSync('sent', '')
  const wait = async () => { if (!fs.existsSync('again')) return setTimeout(wait, 100); console.log('second ' + await put(1)) }
  wait()
}
go()
`

attack('Q-13', 'a budget is not fresh after a crash of the daemon', async (as) => {
  const stage = await makeStage(as)
  const mark = `budget-${as}`
  const upload = { perRequest: '64KiB', perMinute: '1MiB', perSession: '64KiB' }
  const uploads = async () =>
    await stage.session([stage.product.node, '-e', UPLOAD, mark], {
      spec: network(stage, { upload }),
      timeout: 60_000,
    })
  const running = uploads()
  assert.ok(
    await eventually(() => fs.existsSync(join(stage.project, 'sent')), 20_000),
    'control: the first is sent',
  )
  const [daemon] = daemonsOf(stage)
  assert.ok(daemon)
  process.kill(daemon, 'SIGKILL')
  assert.ok(
    await eventually(() => daemonsOf(stage).some((pid) => pid !== daemon), 15_000),
    'another daemon comes',
  )
  await sleep(1500)
  fs.writeFileSync(join(stage.project, 'again'), '')
  const ran = await running
  assert.match(ran.stdout, /first 200/, describe(ran))
  assert.match(ran.stdout, /second (413|429|403)/, `the second fits no more: ${describe(ran)}`)
  assert.equal(await arrived(mark), 1, 'a body beyond the budget arrived whole')
  const next = await uploads()
  assert.match(next.stdout, /first 200/, `control: a session has a budget of its own\n${describe(next)}`)
  return 'refused after the crash; the next session has its own'
})

const strace = labMissing ?? (fs.existsSync('/usr/bin/strace') ? null : 'needs strace')

attackIn(strace)(
  'A-06',
  'a disk that hangs holds the request back, and nothing goes on unrecorded',
  async (as) => {
    const stage = await makeStage(as)
    const mark = `hang-${as}`
    // The daemon must be nobody's child: strace would wait for its end.
    await stage.ambit(['sessions'])
    const build = join(stage.product.root, 'ambit/.build')
    // Not what it starts: gVisor traces its own processes, and none can be traced twice.
    const hang = [
      'strace',
      '-f',
      '-b',
      'execve',
      '-o',
      '/dev/null',
      '-e',
      'trace=fdatasync',
      '-e',
      'inject=fdatasync:delay_enter=2000000',
    ]
    const ask = `require('node:https').get('https://good.test/${mark}/0', (answer) => answer.resume().on('end', () => console.log('answered'))).on('error', (error) => console.log(error.code))`
    const run = stage.run([stage.product.node, '-e', ask], stage.profile(network(stage)))
    const running = stage.command([...hang, join(build, 'node'), join(build, 'ambit.cjs'), ...run], {
      timeout: 90_000,
    })
    const journals = (): string[] => fs.globSync('state/sessions/*/journal/run.wal', { cwd: stage.ambitHome })
    const intent = (): boolean =>
      journals().some((path) => fs.readFileSync(join(stage.ambitHome, path), 'latin1').includes(`/${mark}/0`))
    assert.ok(await eventually(intent, 60_000), 'control: the request is recorded')
    const recordedAt = performance.now()
    const ran = await running
    const at = times.get(`/${mark}/0`)
    assert.ok(
      at === undefined || at - recordedAt > 400,
      `it went out ${at && at - recordedAt} ms after its record was written`,
    )
    assert.match(ran.stdout, /answered|E[A-Z]+/, describe(ran))
    await assertVerified(stage)
    assert.equal(await recorded(stage, mark), 1)
    return at === undefined
      ? 'refused'
      : `held back ${((at - recordedAt) / 1000).toFixed(1)} s, until it was durable`
  },
)
