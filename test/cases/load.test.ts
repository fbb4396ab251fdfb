/** Q: the gate under ten times the connections that it admits, and between peers that misbehave on purpose. */
import assert from 'node:assert/strict'
import { existsSync, globSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import type { Fact } from '../../src/audit/fact.ts'
import { readJournal } from '../../src/audit/journal.ts'
import { native } from '../../src/lib/native.ts'
import { attack, once } from '../support/case.ts'
import { peakOf } from '../support/peak.ts'
import { eventually, processesWith } from '../support/processes.ts'
import { describe, Stage } from '../support/stage.ts'
import { serveHttps } from '../support/upstream.ts'
import type { As } from '../support/users.ts'

const BIG = 64 << 20
/** Bytes of such answers that the server could get rid of. */
let sent = 0

const world = once(async () => {
  const good = await serveHttps(['good.internal'], {
    answer: ({ url, bytes }, response) => {
      const path = /^\/arrived(.*)/.exec(url)?.[1]
      if (path) return void response.end(String(good.begun.includes(path)))
      if (!url.startsWith('/big')) return void response.end(`hello ${bytes}`)
      response.writeHead(200, { 'content-length': BIG })
      const piece = Buffer.alloc(1 << 16, 'x')
      let left = BIG
      const more = (): void => {
        while (left > 0) {
          left -= piece.length
          sent += piece.length
          if (!response.write(piece)) return
        }
        response.end()
      }
      response.on('drain', more)
      more()
    },
  })
  return { good, bad: await serveNonsense() }
})

after(() => setTimeout(() => process.exit(), 100).unref())

/** What a server says, by path. `null` ends the connection at once. */
const NONSENSE: Readonly<Record<string, string | null>> = {
  '/reset': null,
  '/nonsense': 'SSH-2.0-OpenSSH_9.9\r\n\r\n',
  '/interim': 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'.repeat(200),
  '/headers': `HTTP/1.1 200 OK\r\n${'X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n'.repeat(4000)}`,
  '/two-lengths': 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!',
  '/short': 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello',
  '/long':
    'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON',
  '/fine': 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine',
}

async function serveNonsense(): Promise<{ port: number; ca: string }> {
  const now = Math.floor(Date.now() / 1000)
  const ca = native().createCa('Ambit nonsense', now - 3600, now + 86_400)
  const { cert, key } = native().createLeaf(ca, 'bad.internal', now - 3600, now + 86_400)
  const server = createTlsServer({ cert, key }, (socket: TLSSocket) => {
    socket.on('error', () => undefined)
    socket.on('data', (bytes: Buffer) => {
      const said = NONSENSE[bytes.toString('latin1').split(' ')[1] ?? '']
      if (said === null || said === undefined) socket.destroy()
      else if (said.includes('100\r\n')) socket.end(said)
      else socket.write(said)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { port: (server.address() as { port: number }).port, ca: ca.cert }
}

/** A session that runs `script` (ESM text, with the helpers of TOOLS) and prints one JSON value. */
async function run(as: As, script: string, during?: (stage: Stage, over: () => boolean) => Promise<void>) {
  const { good, bad } = await world(null)
  const stage = new Stage(as, { files: { 'load.mjs': TOOLS + script } })
  writeFileSync(join(stage.root, 'good.pem'), good.ca, { mode: 0o644 })
  writeFileSync(join(stage.root, 'bad.pem'), bad.ca, { mode: 0o644 })
  const rule = (host: string, port: number, ca: string) => ({
    host,
    connect: `127.0.0.1:${port}`,
    ...(ca === '' ? {} : { ca: join(stage.root, ca) }),
    methods: ['GET', 'POST'],
    paths: ['/*'],
  })
  const network = [
    rule('good.internal', good.port, 'good.pem'),
    rule('bad.internal', bad.port, 'bad.pem'),
    rule('closed.internal', await closedPort(), 'bad.pem'),
  ]
  const running = stage.session([stage.product.node, 'load.mjs'], { spec: { network }, timeout: 240_000 })
  let over = false
  void running.then(() => (over = true))
  if (during) await during(stage, () => over)
  const ran = await running
  assert.equal(ran.code, 0, describe(ran))
  return { stage, value: JSON.parse(ran.stdout.trim().split('\n').at(-1) ?? ''), facts: factsOf(stage) }
}

async function closedPort(): Promise<number> {
  const server = createTlsServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** What the gate recorded, of the stage's one session that had something to say. */
function factsOf(stage: Stage): Fact[] {
  return globSync(join(stage.ambitHome, 'state/sessions/*/journal/run.wal')).flatMap((path) =>
    [...readJournal(path)].map(({ fact }) => fact),
  )
}

const TOOLS = `
import tls from 'node:tls'
import net from 'node:net'
import https from 'node:https'
import http2 from 'node:http2'
import { existsSync, writeFileSync } from 'node:fs'
import { lookup } from 'node:dns/promises'
import { setTimeout as sleep } from 'node:timers/promises'
const say = (value) => { process.stdout.write(JSON.stringify(value) + '\\n', () => process.exit(0)) }
const get = (url) => new Promise((resolve) => {
  const request = https.get(url, { agent: false, timeout: 20000 }, (response) => {
    let body = ''
    response.on('data', (bytes) => (body += bytes))
    response.on('end', () => resolve({ status: response.statusCode, body }))
    response.on('error', (error) => resolve({ status: response.statusCode, error: error.code }))
  })
  request.on('timeout', () => request.destroy())
  request.on('error', (error) => resolve({ error: error.code }))
})
const open = (host) => new Promise((resolve, reject) => {
  const socket = tls.connect({ host, port: 443, servername: host, ALPNProtocols: ['http/1.1'] }, () => resolve(socket))
  socket.on('error', reject)
})
/** Until the server has the head of a request for this path. */
const arrived = async (path) => {
  while ((await get('https://good.internal/arrived' + path)).body !== 'true') await sleep(50)
}
/** Until a file of the project is there. */
const until = async (name) => { while (!existsSync(name)) await sleep(50) }
const closed = (socket) => new Promise((resolve) => {
  socket.on('error', () => {})
  socket.on('close', resolve)
})
`

/** Connections that the gate admits, and ten times as many. */
const ADMITTED = 512
const TRIED = 10 * ADMITTED

attack('Q-02', 'refuses connections beyond its bound, says so, and serves again after', async (as) => {
  const { value, facts } = await run(
    as,
    `
    let gone = 0
    let there = 0
    const { address } = await lookup('good.internal')
    const sockets = []
    // Not all at once: what the kernel's queue does not take is sent again only after seconds.
    while (sockets.length < ${TRIED}) {
      const socket = net.connect({ host: address, port: 443 }, () => there++)
      sockets.push(socket.on('error', () => {}).on('close', () => gone++))
      for (let tick = 0; tick < 100 && sockets.length - there >= 100; tick++) await sleep(10)
    }
    for (let tick = 0; tick < 600 && (there < ${TRIED} || gone < ${TRIED - ADMITTED}); tick++) await sleep(100)
    const refused = gone
    for (const socket of sockets) socket.destroy()
    let after = {}
    for (let tick = 0; tick < 100 && after.status !== 200; tick++) {
      await sleep(300)
      after = await get('https://good.internal/after')
    }
    say({ refused, after })
    `,
  )
  assert.ok(value.refused >= TRIED - ADMITTED, `${value.refused} of ${TRIED} refused`)
  assert.equal(value.after.status, 200, 'control: slots come back')
  const records = facts.filter(
    (fact) => fact.k === 'net.denied' && fact.reason === 'gate.too-many-connections',
  )
  assert.ok(records.length >= 1 && records.length < 10, `${records.length} records`)
  return `${value.refused} of ${TRIED} refused, then served`
})

attack('Q-04', 'frees both sides after half-closes, resets and aborts, with one record each', async (as) => {
  const { good } = await world(null)
  const before = good.requests.length
  const { value, facts } = await run(
    as,
    `
    const half = await open('good.internal')
    half.resume().end('GET /half HTTP/1.1\\r\\nHost: good.internal\\r\\n\\r\\n')
    await closed(half)
    const begin = 'POST /aborted HTTP/1.1\\r\\nHost: good.internal\\r\\nContent-Length: 1000000\\r\\n\\r\\n'
    const abort = await open('good.internal')
    abort.write(begin + 'b'.repeat(10000))
    await arrived('/aborted')
    abort.destroy()
    const plain = net.connect({ host: 'good.internal', port: 443 })
    const reset = tls.connect({ socket: plain, servername: 'good.internal' })
    reset.on('error', () => {})
    await new Promise((resolve) => reset.once('secureConnect', resolve))
    reset.write(begin.replace('aborted', 'reset') + 'r'.repeat(10000))
    await arrived('/reset')
    plain.resetAndDestroy()
    await sleep(800)
    say({ after: await get('https://good.internal/after') })
    `,
  )
  assert.equal(value.after.status, 200, 'control: whole requests pass')
  for (const path of ['/half', '/aborted', '/reset']) {
    const seen = good.requests.slice(before).filter(({ url }) => url === path)
    assert.ok(path === '/half' || seen.length === 1, `${path} arrived ${seen.length} times`)
    assert.ok((seen[0]?.bytes ?? 0) <= 10_000, `${path}: what was sent, and no more`)
    const asked = facts.filter((fact) => fact.k === 'http.request' && fact.path === path)
    const ids = asked.map((fact) => fact.k === 'http.request' && fact.request)
    const ends = facts.filter((fact) => fact.k === 'http.response' && ids.includes(fact.request))
    assert.equal(ends.length, 1, `${path}: ${ends.length} records of its end`)
  }
  return 'half-close, abort and reset end both sides, one record each'
})

attack('Q-05', 'answers 502 for servers that break HTTP, and passes nothing of it on', async (as) => {
  const paths = Object.keys(NONSENSE).filter((path) => path !== '/fine')
  const { value } = await run(
    as,
    `
    const out = { closed: await get('https://closed.internal/') }
    for (const path of ${JSON.stringify(paths)}) {
      out[path] = await get('https://bad.internal' + path)
      out[path].next = await get('https://bad.internal/fine')
    }
    say(out)
    `,
  )
  assert.equal(value.closed.status, 502)
  for (const path of ['/reset', '/nonsense', '/interim', '/headers', '/two-lengths'])
    assert.equal(value[path].status, 502, `${path}: ${JSON.stringify(value[path])}`)
  assert.ok(value['/short'].error, 'a body cut short is not a whole one')
  assert.equal(value['/long'].body, 'hello')
  for (const path of paths)
    assert.deepEqual(value[path].next, { status: 200, body: 'fine' }, `after ${path}: nothing is left over`)
  return '502, or cut; no answer of another request'
})

attack('Q-06', 'stays bounded with clients that never read', async (as) => {
  let peak = 0
  const { value } = await run(
    as,
    `
    const sockets = []
    for (let batch = 0; batch < 10; batch++)
      sockets.push(...(await Promise.all(Array.from({ length: 15 }, () => open('good.internal')))))
    for (const socket of sockets) {
      socket.pause()
      socket.write('GET /big HTTP/1.1\\r\\nHost: good.internal\\r\\n\\r\\n')
    }
    await until('still')
    const begun = performance.now()
    const seconds = () => Math.round((performance.now() - begun) / 100) / 10
    let during = {}
    let tick = 0
    for (; tick < 10 && during.status !== 200; tick++) {
      if (tick > 0) await sleep(500)
      during = await get('https://good.internal/during')
    }
    Object.assign(during, { tick, seconds: seconds() })
    writeFileSync('tried', '')
    await until('measured')
    for (const socket of sockets) socket.destroy()
    await sleep(300)
    say({ during, after: await get('https://good.internal/after'), seconds: seconds() })
    `,
    async (stage, over) => {
      const before = sent
      for (let last = before; !over(); last = sent) {
        await sleep(1000)
        if (last > before && last === sent) break
      }
      peak = peakOf(stage.root)
      stage.put(stage.project, { still: '' })
      while (!over() && !existsSync(join(stage.project, 'tried'))) await sleep(50)
      peak = Math.max(peak, peakOf(stage.root))
      stage.put(stage.project, { measured: '' })
    },
  )
  assert.equal(value.during.status, 200, `others are served meanwhile: ${JSON.stringify(value.during)}`)
  assert.equal(value.after.status, 200)
  assert.ok(peak > 20, 'control: the gate was found')
  assert.ok(peak < 500, `${peak} MiB for 150 answers of 64 MiB`)
  return `150 unread answers of 64 MiB: at most ${peak} MiB`
})

attack('Q-07', 'closes an HTTP/2 connection that floods, and only that one', async (as) => {
  const { value } = await run(
    as,
    `
    const session = http2.connect('https://good.internal')
    session.on('error', () => {})
    await new Promise((resolve) => session.once('connect', resolve))
    const first = await new Promise((resolve) => session.request({ ':path': '/first' }).on('response', (head) => resolve(head[':status'])).resume())
    let opened = 0
    while (!session.destroyed && !session.closed && opened < 20000) {
      const streams = []
      for (let i = 0; i < 50 && !session.destroyed; i++, opened++) {
        streams.push(session.request({ ':path': '/flood' }).on('error', () => {}))
      }
      // A stream that is given up before its head was sent is no reset on the wire.
      await sleep(1)
      for (const stream of streams) stream.close(http2.constants.NGHTTP2_CANCEL)
      await sleep(1)
    }
    // The gate may read all that only when its turn comes; one that is merely idle it leaves open for longer.
    for (let tick = 0; tick < 600 && !session.destroyed && !session.closed; tick++) await sleep(100)
    say({ first, opened, closed: session.destroyed || session.closed, after: await get('https://good.internal/after') })
    `,
  )
  assert.equal(value.first, 200, 'control: HTTP/2 works')
  assert.ok(value.closed, `still open after ${value.opened} resets`)
  assert.equal(value.after.status, 200)
  return `closed after ${value.opened} resets`
})

attack('Q-11', 'stays bounded and quick when hundreds of names want certificates', async (as) => {
  const { value } = await run(
    as,
    `
    const ask = (name) => new Promise((resolve) => {
      const socket = tls.connect({ host: name, port: 443, servername: name, ALPNProtocols: ['http/1.1'] })
      let text = ''
      socket.on('secureConnect', () => socket.write('GET / HTTP/1.1\\r\\nHost: ' + name + '\\r\\n\\r\\n'))
      socket.on('data', (bytes) => { text += bytes; socket.destroy() })
      socket.on('error', () => {}).on('close', () => resolve(text.slice(9, 12)))
    })
    const statuses = {}
    for (let batch = 0; batch < 30; batch++)
      for (const status of await Promise.all(Array.from({ length: 20 }, (_, i) => ask('n' + (batch * 20 + i) + '.refused.test'))))
        statuses[status] = (statuses[status] ?? 0) + 1
    say({ statuses, after: await get('https://good.internal/after') })
    `,
  )
  assert.deepEqual(value.statuses, { 403: 600 })
  assert.equal(value.after.status, 200, 'control: a granted name is served')
  return '600 names, 600 readable refusals'
})

/** Processes other than the daemon that hold the stage's session journal open: the gate's is one. */
function writersOf(stage: Stage): number[] {
  return processesWith(stage.root).filter((pid) => {
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('ambitd')) return false
      return readdirSync(`/proc/${pid}/fd`).some((fd) =>
        readlinkSync(`/proc/${pid}/fd/${fd}`).endsWith('/journal/run.wal'),
      )
    } catch {
      // It ended.
      return false
    }
  })
}

attack('Q-09', 'ends the gate when the command that began the session is killed', async (as) => {
  const stage = new Stage(as)
  let pid = 0
  const running = stage.session(['/bin/sleep', '60'], { onStart: (child) => (pid = child) })
  assert.ok(await eventually(() => writersOf(stage).length > 0, 20_000), 'control: a gate runs')
  await sleep(500)
  process.kill(pid, 'SIGKILL')
  const killed = performance.now()
  await running
  assert.ok(await eventually(() => writersOf(stage).length === 0, 10_000), 'a gate outlived its session')
  return `gone after ${((performance.now() - killed) / 1000).toFixed(1)} s`
})

attack('Q-14', 'stays closed without descriptors, and serves again with them', async (as) => {
  let served = 0
  const { value } = await run(
    as,
    `
    const before = await get('https://good.internal/before')
    writeFileSync('ready', '')
    await until('limited')
    const many = await Promise.all(Array.from({ length: 60 }, () => get('https://good.internal/during')))
    writeFileSync('tried', '')
    await until('lifted')
    say({ before, during: many.map(({ status }) => status ?? 'none'), after: await get('https://good.internal/after') })
    `,
    async (stage) => {
      const { good } = await world(null)
      const ready = (name: string) => eventually(() => existsSync(join(stage.project, name)), 40_000)
      assert.ok(await ready('ready'))
      const gates = writersOf(stage)
      assert.equal(gates.length, 1, 'control: one gate')
      const pid = String(gates[0])
      const open = readdirSync(`/proc/${pid}/fd`).length
      const limit = async (soft: number) => {
        const ran = await stage.command(['prlimit', '--pid', pid, `--nofile=${soft}:`])
        assert.equal(ran.code, 0, describe(ran))
      }
      await limit(open + 12)
      const before = good.requests.length
      stage.put(stage.project, { limited: '' })
      assert.ok(await ready('tried'))
      served = good.requests.length - before
      await limit(1024)
      stage.put(stage.project, { lifted: '' })
    },
  )
  assert.equal(value.before.status, 200, 'control: served before')
  const answers = value.during as (number | 'none')[]
  const ok = answers.filter((status) => status === 200).length
  assert.ok(ok < 60, 'the limit was not felt')
  assert.ok(
    answers.every((status) => [200, 502, 503, 'none'].includes(status)),
    answers.join(' '),
  )
  assert.ok(served <= 60 && served >= ok, `${served} requests left, ${ok} were answered`)
  assert.equal(value.after.status, 200, 'and serves again')
  return `${60 - ok} of 60 refused or reset, then served`
})
