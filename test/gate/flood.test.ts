/** Clients that try to exhaust the gate: HTTP/2 floods, pipelines, connections, many hosts. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2'
import { connect as connectTcp, type Socket } from 'node:net'
import { duplexPair } from 'node:stream'
import { after, test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import { SessionCa } from '../../src/gate/session-ca.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { frame, PREFACE, requestHead } from './http2-peer.ts'
import { planOf, rawTls, rule, startBench, testCa, until } from './harness.ts'

const upstream = await startUpstream({ tls: testCa.issue(['api.example.com']), http2: true })
const bench = await startBench(
  planOf([rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port: upstream.port } })]),
)
after(async () => {
  await bench.close()
  await upstream.close()
})

async function tls(...alpn: string[]): Promise<Socket> {
  bench.aim((await bench.lookup('api.example.com')).addresses[0] ?? '', 443)
  const options = { servername: 'api.example.com', ca: bench.gate.caPem, ALPNProtocols: alpn }
  const socket = connectTls({ host: '127.0.0.1', port: bench.ports.tcp, ...options })
  socket.on('error', () => undefined)
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  return socket
}

const HEAD = requestHead('api.example.com')

const FLOODS: Readonly<Record<string, (index: number) => Buffer>> = {
  'rapid resets': (index) =>
    Buffer.concat([
      frame(1, 0x5, 2 * index + 1, HEAD),
      frame(3, 0, 2 * index + 1, Buffer.from([0, 0, 0, 8])),
    ]),
  'CONTINUATION without end': (index) =>
    index === 0 ? frame(1, 0x1, 1, HEAD) : frame(9, 0, 1, Buffer.from([0x00, 1, 0x61, 1, 0x62])),
  'a stream of SETTINGS of 100 entries': () => frame(4, 0, 0, Buffer.alloc(600)),
  'a frame of unknown length': () => frame(0, 0, 1, Buffer.alloc(60_000)),
}

for (const [name, make] of Object.entries(FLOODS))
  test(`Q-07: ${name} ends the connection, and others are served on`, async () => {
    const before = upstream.requests.length
    const socket = await tls('h2')
    const closed = new Promise((resolve) => socket.resume().once('close', resolve))
    socket.write(PREFACE)
    for (let index = 0; index < 20_000 && socket.writable; index++) {
      socket.write(make(index))
      if (index % 500 === 499) await new Promise((resolve) => setImmediate(resolve))
    }
    await closed
    assert.ok(upstream.requests.length - before < 1000)
    assert.equal((await bench.curl('https://api.example.com/')).status, 200)
  })

/** One field of a head, HPACK literal without indexing. */
const field = (name: string, value: string): Buffer =>
  Buffer.concat([name, value].flatMap((text) => [Buffer.from([text.length]), Buffer.from(text)]))

test('an HTTP/2 stream that waits for 100 Continue and is reset in the same piece ends nothing else', async () => {
  bench.aim((await bench.lookup('api.example.com')).addresses[0] ?? '', 443)
  const thrown: unknown[] = []
  const note = (error: unknown): number => thrown.push(error)
  process.on('uncaughtExceptionMonitor', note)
  const post = Buffer.concat([Buffer.from([0x83]), HEAD.subarray(1)])
  const waiting = Buffer.concat([post, Buffer.from([0]), field('expect', '100-continue')])
  for (let round = 0; round < 3; round++) {
    const [ours, theirs] = duplexPair()
    const tcp = connectTcp(bench.ports.tcp, '127.0.0.1').on('error', () => undefined)
    let held: Buffer[] | null = null
    theirs.on('data', (bytes: Buffer) => (held ? held.push(bytes) : tcp.write(bytes)))
    tcp.on('data', (bytes: Buffer) => theirs.write(bytes))
    const options = { servername: 'api.example.com', ca: bench.gate.caPem, ALPNProtocols: ['h2'] }
    const client = connectTls({ socket: ours, ...options }).on('error', () => undefined)
    await once(client, 'secureConnect')
    client.resume().write(PREFACE)
    const seen = upstream.requests.length
    client.write(frame(1, 0x4, 1, post))
    await until(() => upstream.requests.length > seen)
    // Two records of TLS in one piece: the server still writes its answer to the first when it reads the second.
    held = []
    client.write(frame(6, 0, 0, Buffer.alloc(8)))
    await new Promise((resolve) => setTimeout(resolve, 5))
    const data = frame(0, 0, 1, Buffer.from('x'))
    client.write(Buffer.concat([data, frame(1, 0x4, 3, waiting), frame(3, 0, 3, Buffer.from([0, 0, 0, 8]))]))
    await new Promise((resolve) => setTimeout(resolve, 5))
    tcp.write(Buffer.concat(held))
    await new Promise((resolve) => setTimeout(resolve, 60))
    tcp.destroy()
  }
  assert.equal((await bench.curl('https://api.example.com/')).status, 200)
  process.off('uncaughtExceptionMonitor', note)
  assert.deepEqual(thrown, [], 'outside a test the session would have ended')
})

test('N-24: CONNECT over HTTP/2 is refused, on record', async () => {
  const before = bench.of('http.denied').length
  const socket = await tls('h2')
  const client = connectHttp2('https://api.example.com', { createConnection: () => socket })
  const stream = client.request({ ':method': 'CONNECT', ':authority': 'api.example.com' })
  const answer = await new Promise<IncomingHttpHeaders>((resolve) => stream.once('response', resolve))
  assert.equal(answer[':status'], 405)
  client.destroy()
  const { method, reason } = bench.of('http.denied')[before] ?? {}
  assert.deepEqual({ method, reason }, { method: 'CONNECT', reason: 'http.method-unknown' })
})

test('Q-07: at most 100 streams of a connection are open at once', async () => {
  bench.aim((await bench.lookup('api.example.com')).addresses[0] ?? '', 443)
  const socket = await tls('h2')
  const session = connectHttp2('https://api.example.com', { createConnection: () => socket })
  session.on('error', () => undefined)
  await new Promise((resolve) => session.once('remoteSettings', resolve))
  assert.equal(session.remoteSettings.maxConcurrentStreams, 100)
  assert.notEqual(session.remoteSettings.enableConnectProtocol, true)
  session.destroy()
})

test('a pipeline of requests is served in order', async () => {
  const one = (path: string) => `GET /echo?${path} HTTP/1.1\r\nHost: api.example.com\r\n\r\n`
  const answer = await rawTls(bench, 'api.example.com', one('a') + one('b') + one('c'), 3000)
  assert.deepEqual(answer.match(/echo\?[abc]/g), ['echo?a', 'echo?b', 'echo?c'])
})

test('Q-02: connections beyond 512 are dropped, and slots come back', async () => {
  const sockets: Socket[] = []
  let dropped = 0
  for (let count = 0; count < 600; count++) {
    const socket = connectTcp(bench.ports.tcp, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.resume().once('close', () => dropped++)
    sockets.push(socket)
  }
  await until(() => dropped >= 80)
  assert.ok(dropped <= 600 - 400)
  for (const socket of sockets) socket.destroy()
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.equal((await bench.curl('https://api.example.com/')).status, 200)
})

test('A-16: the record of a refusal is not as long as the client likes', async () => {
  const path = `/${'a'.repeat(50_000)}`
  const before = bench.of('http.denied').length
  const { status } = await bench.curl(`https://api.example.com${path}`, '--request', 'TRACE')
  assert.equal(status, 405)
  const fact = bench.of('http.denied')[before]
  assert.match(fact?.path ?? '', /^\/a{2047}…\(47953 more\)$/)
  // What passes is recorded whole: the upload budget bounds that.
  assert.equal((await bench.curl(`https://api.example.com${path}`)).status, 200)
  assert.equal(bench.of('http.request').at(-1)?.path, path)
})

test('Q-11: certificates kept are bounded', () => {
  let made = 0
  const { cert, key } = testCa.issue(['any.example.com'])
  const ca = new SessionCa({ createCa: () => testCa, createLeaf: () => (made++, { cert, key }) }, 1000)
  const first = ca.contextFor('n0.example.com')
  assert.equal(ca.contextFor('n0.example.com'), first)
  assert.equal(made, 1)
  for (let count = 1; count <= 256; count++) ca.contextFor(`n${count}.example.com`)
  assert.equal(made, 257)
  ca.contextFor('n0.example.com')
  assert.equal(made, 258)
})
