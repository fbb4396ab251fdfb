/** What changes while a request is under way: labels that rise, sessions that freeze. Decisions hold only at their time. */
import assert from 'node:assert/strict'
import { connect as connectHttp2 } from 'node:http2'
import { connect as connectTcp, createServer, type AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { dnsQuery } from '../fixtures/servers/dns-message.ts'
import { type Bench, planOf, rule, startBench, testCa, tlsTo, until } from './harness.ts'

const HOST = 'api.example.com'
const upstream = await startUpstream({ tls: testCa.issue([HOST]), http2: true })
/** Accepts at once and passes nothing on until it is let through: a dial that takes its time. */
const gates: (() => void)[] = []
let waiting = false
const slow = createServer((socket) => {
  socket.on('error', () => undefined)
  const join = (): void => {
    const other = connectTcp(upstream.port, '127.0.0.1')
    other.on('error', () => socket.destroy())
    socket.pipe(other).pipe(socket)
  }
  if (waiting) gates.push(join)
  else join()
})
await new Promise<void>((resolve) => slow.listen(0, '127.0.0.1', resolve))
const slowPort = (slow.address() as AddressInfo).port
after(async () => {
  slow.close()
  await upstream.close()
})

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))
const planAt = (port: number) =>
  planOf([rule({ host: HOST, clearance: 'internal', connect: { address: '127.0.0.1', port } })])

async function clientOf(bench: Bench, alpn: string) {
  const socket = await tlsTo(bench, HOST, { ALPNProtocols: [alpn] })
  socket.on('error', () => undefined)
  return socket
}

/** A POST whose body is sent piece by piece, over either protocol. */
async function post(bench: Bench, version: string): Promise<{ send(text: string): void; close(): void }> {
  const socket = await clientOf(bench, version === 'HTTP/2' ? 'h2' : 'http/1.1')
  if (version === 'HTTP/2') {
    const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket })
    session.on('error', () => undefined)
    const stream = session.request({ ':method': 'POST', ':path': '/echo' })
    stream.on('error', () => undefined)
    return { send: (text) => void stream.write(text), close: () => session.destroy() }
  }
  socket.write(`POST /echo HTTP/1.1\r\nHost: ${HOST}\r\nTransfer-Encoding: chunked\r\n\r\n`)
  return {
    send: (text) => void socket.write(`${text.length.toString(16)}\r\n${text}\r\n`),
    close: () => socket.destroy(),
  }
}

for (const version of ['HTTP/1.1', 'HTTP/2']) {
  for (const label of ['internal', 'confidential'] as const) {
    const passes = label === 'internal'
    test(`${version}: a body begun before a ${label} file was read ${passes ? 'goes on' : 'is cut'}`, async () => {
      const bench = await startBench(planAt(upstream.port))
      const before = upstream.requests.length
      const body = await post(bench, version)
      body.send('begun')
      await until(() => upstream.requests.length === before + 1)
      await sleep(50)
      bench.state.label = label
      const bytes = upstream.bytes()
      body.send('x'.repeat(2000))
      if (passes) await until(() => upstream.bytes() > bytes + 2000)
      else {
        await until(() => bench.of('http.denied').length === 1)
        assert.equal(bench.of('http.denied')[0]?.reason, 'network.clearance-exceeded')
        await sleep(100)
        // A reset or a close notification may go out; what was read may not.
        assert.ok(upstream.bytes() < bytes + 200, `${upstream.bytes() - bytes} bytes left`)
      }
      body.close()
      await bench.close()
    })
  }

  test(`${version}: what a frozen session held of a request counts for nothing when its client goes`, async () => {
    const connect = { address: '127.0.0.1', port: upstream.port }
    const upload = { perRequest: 1 << 20, perMinute: 1 << 30, perSession: 12_000 }
    const bench = await startBench(planOf([rule({ host: HOST, connect })], { upload }))
    const before = upstream.requests.length
    const body = await post(bench, version)
    body.send('begun')
    await until(() => upstream.requests.length === before + 1)
    await sleep(50)
    bench.gate.pause('frozen')
    body.send('x'.repeat(9000))
    await sleep(100)
    body.close()
    await until(() => bench.of('http.response').length === 1)
    bench.gate.resume()
    await sleep(50)
    const args = [version === 'HTTP/2' ? '--http2' : '--http1.1', '--data-binary', 'x'.repeat(6000)]
    assert.equal((await bench.curl(`https://${HOST}/echo`, ...args)).status, 200)
    // Positive control: of this one all has counted.
    assert.equal((await bench.curl(`https://${HOST}/echo`, ...args)).status, 413)
    await bench.close()
  })

  for (const [what, change, reason] of [
    ['freezes', (bench: Bench) => bench.gate.pause('frozen'), 'session.stopped'],
    [
      'reads above the clearance',
      (bench: Bench) => (bench.state.label = 'regulated'),
      'network.clearance-exceeded',
    ],
    ['stays as it is', () => undefined, null],
  ] as const) {
    test(`${version}: a session that ${what} while a connection is made`, async () => {
      const bench = await startBench(planAt(slowPort))
      waiting = true
      const before = upstream.requests.length
      const answer = bench.curl(
        `https://${HOST}/secret-in-the-path`,
        version === 'HTTP/2' ? '--http2' : '--http1.1',
      )
      await until(() => gates.length > 0)
      change(bench)
      waiting = false
      for (const open of gates.splice(0)) open()
      const { status } = await answer
      assert.equal(upstream.requests.length - before, reason === null ? 1 : 0)
      assert.equal(bench.of('http.denied')[0]?.reason ?? null, reason)
      assert.equal(status, reason === null ? 200 : reason === 'session.stopped' ? 503 : 403)
      await bench.close()
    })
  }
}

test('a WebSocket is decided again when its connection stands', async () => {
  const bench = await startBench(planAt(slowPort))
  waiting = true
  const before = upstream.requests.length
  const socket = await clientOf(bench, 'http/1.1')
  let answer = ''
  socket.on('data', (chunk: Buffer) => (answer += chunk.toString('latin1')))
  socket.write(
    `GET /ws?secret HTTP/1.1\r\nHost: ${HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n',
  )
  await until(() => gates.length > 0)
  bench.gate.pause('frozen')
  waiting = false
  for (const open of gates.splice(0)) open()
  await until(() => answer.includes('session.stopped'))
  assert.equal(upstream.requests.length, before)
  socket.destroy()
  await bench.close()
})

test('Q-06: a DNS client that never reads its answers costs no memory', async () => {
  const bench = await startBench(planAt(upstream.port))
  const query = dnsQuery(HOST, 1)
  const one = Buffer.alloc(2 + query.length)
  one.writeUInt16BE(query.length)
  query.copy(one, 2)
  const flood = Buffer.concat(Array.from({ length: 4000 }, () => one))
  const socket = connectTcp(bench.ports.dnsTcp, '127.0.0.1')
  socket.on('error', () => undefined)
  socket.pause()
  let sent = 0
  // A gate that stops reading makes `write` stop to call back.
  const more = (): void => {
    if (sent < 64 << 20) socket.write(flood, () => ((sent += flood.length), more()))
  }
  socket.once('connect', more)
  let before = -1
  for (; sent !== before && sent < 32 << 20; await sleep(300)) before = sent
  assert.ok(sent < 32 << 20, `${sent} bytes of queries were taken without an answer being read`)
  // And one that does read is served on.
  let bytes = 0
  socket.on('data', (chunk: Buffer) => (bytes += chunk.length))
  socket.resume()
  await until(() => bytes > 100_000)
  socket.destroy()
  await bench.close()
})
