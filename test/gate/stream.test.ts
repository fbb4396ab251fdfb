/** Bodies, event streams, WebSockets, gRPC-like streams, and refusals while bytes are still coming. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { connect as connectHttp2, constants } from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { connect as connectTls } from 'node:tls'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { type Bench, planOf, rawTls, rule, startBench, testCa, until } from './harness.ts'

const upstream = await startUpstream({
  tls: testCa.issue(['api.example.com', 'ws.example.com']),
  http2: true,
})
const connect = { address: '127.0.0.1', port: upstream.port }
const MiB = 1 << 20
const rules = [
  rule({ host: 'api.example.com', connect }),
  rule({ host: 'ws.example.com', connect, paths: ['/ws'] }),
]
const bench = await startBench(
  planOf(rules, { upload: { perRequest: 80 * MiB, perMinute: 2 ** 40, perSession: 2 ** 40 } }),
)
/** A gate with small limits; a new one for each test, since the limits are a session's. */
const startTight = () =>
  startBench(planOf(rules, { upload: { perRequest: 4096, perMinute: 10_000, perSession: 12_000 } }))
const dir = mkdtempSync(join(tmpdir(), 'ambit-stream-'))
const big = join(dir, 'big')
const bigBytes = randomBytes(64 * MiB)
writeFileSync(big, bigBytes)
const medium = join(dir, 'medium')
writeFileSync(medium, bigBytes.subarray(0, 8 * MiB))
after(async () => {
  await bench.close()
  await upstream.close()
  rmSync(dir, { recursive: true, force: true })
})

/** A TLS socket to the gate as a client in the session has it. */
async function openTls(to: Bench, host: string) {
  const { addresses } = await to.lookup(host)
  to.aim(addresses[0] ?? '', 443)
  const socket = connectTls({ host: '127.0.0.1', port: to.ports.tcp, servername: host, ca: to.gate.caPem })
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  return socket
}

/** An HTTP/2 session to the gate for api.example.com. */
async function openHttp2(to: Bench) {
  const { addresses } = await to.lookup('api.example.com')
  to.aim(addresses[0] ?? '', 443)
  const options = { servername: 'api.example.com', ca: to.gate.caPem, ALPNProtocols: ['h2'] }
  const session = connectHttp2('https://api.example.com', {
    createConnection: () => connectTls({ host: '127.0.0.1', port: to.ports.tcp, ...options }),
  })
  session.on('error', () => undefined)
  return session
}

for (const [version, file, bytes] of [
  ['--http1.1', big, bigBytes],
  ['--http2', medium, bigBytes.subarray(0, 8 * MiB)],
] as const)
  test(`N-39 ${version}: a PUT of ${bytes.length} bytes arrives as it was`, async () => {
    const { status, body } = await bench.curl('https://api.example.com/echo', version, '-T', file)
    assert.equal(status, 200)
    const seen = JSON.parse(body) as { body: { bytes: number; sha256: string } }
    assert.equal(seen.body.bytes, bytes.length)
    assert.equal(seen.body.sha256, createHash('sha256').update(bytes).digest('hex'))
  })

test('a large download arrives whole', async () => {
  const { body } = await bench.curl(`https://api.example.com/bytes?n=${8 * MiB}`)
  assert.equal(body.length, 8 * MiB)
})

test('N-40: a refusal is delivered whole while the client keeps sending', async () => {
  const before = upstream.bytes()
  const socket = await openTls(bench, 'evil.invalid')
  socket.write('POST /x HTTP/1.1\r\nHost: evil.invalid\r\nContent-Length: 40000000\r\n\r\n')
  let answer = ''
  const chunk = Buffer.alloc(65_536)
  const writer = setInterval(() => socket.writable && socket.write(chunk), 5)
  socket.on('data', (bytes: Buffer) => (answer += bytes.toString()))
  await new Promise<void>((resolve) => {
    socket.on('error', () => undefined)
    socket.on('end', resolve)
    socket.on('close', resolve)
  })
  clearInterval(writer)
  socket.destroy()
  assert.match(answer, /^HTTP\/1\.1 403 /)
  assert.match(answer, /"reason":"network.no-matching-rule".*\}\n$/s)
  assert.equal(upstream.bytes(), before)
})

test('N-40: curl with a large body reads its refusal', async () => {
  for (const version of ['--http1.1', '--http2']) {
    const { status, body } = await bench.curl('https://evil.invalid/x', version, '-H', 'Expect:', '-T', big)
    assert.equal(status, 403)
    assert.match(body, /no-matching-rule/)
  }
})

test('Expect: 100-continue is answered here: yes when admitted, a refusal otherwise', async () => {
  const head = (host: string) =>
    `POST /echo HTTP/1.1\r\nHost: ${host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n`
  assert.match(await rawTls(bench, 'evil.invalid', head('evil.invalid')), /^HTTP\/1\.1 403 /)
  const socket = await openTls(bench, 'api.example.com')
  let answer = ''
  socket.on('data', (bytes: Buffer) => {
    if (answer === '') socket.write('hello')
    answer += bytes.toString()
  })
  socket.write(head('api.example.com'))
  await until(() => answer.includes('"bytes":5'))
  assert.match(answer, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200/)
  socket.destroy()
})

for (const version of ['--http1.1', '--http2']) {
  test(`X-08 ${version}: a declared body above the limit is refused before anything is sent`, async () => {
    const tight = await startTight()
    const before = upstream.requests.length
    const { status, body } = await tight.curl(
      'https://api.example.com/',
      version,
      '--data-binary',
      'a'.repeat(5000),
    )
    assert.equal(status, 413)
    assert.match(body, /upload\.per-request/)
    assert.equal(upstream.requests.length, before)
    await tight.close()
  })
}

test('X-08 --http1.1: a body of unknown length is cut at the limit', async () => {
  const tight = await startTight()
  const before = upstream.requests.length
  const chunked = ['-H', 'Transfer-Encoding: chunked', '-H', 'Expect:', '-T', medium]
  const { status } = await tight.curl('https://api.example.com/', '--http1.1', ...chunked)
  assert.equal(status, 413)
  assert.equal(tight.of('http.denied').at(-1)?.reason, 'upload.per-request')
  assert.ok(upstream.requests.slice(before).every((request) => request.body === null))
  await tight.close()
})

test('X-08 --http2: a body of unknown length is cut at the limit', async () => {
  const tight = await startTight()
  const before = upstream.requests.length
  const session = await openHttp2(tight)
  const stream = session.request({ ':path': '/', ':method': 'POST' })
  stream.on('error', () => undefined)
  const status = new Promise((resolve) => stream.on('response', (headers) => resolve(headers[':status'])))
  for (let count = 0; count < 100; count++) stream.write(Buffer.alloc(1000))
  assert.equal(await status, 413)
  assert.ok(upstream.requests.slice(before).every((request) => request.body === null))
  session.destroy()
  await tight.close()
})

for (const version of ['--http1.1', '--http2'])
  test(`Q-04 ${version}: an upload that the client breaks off never arrives as a whole one`, async () => {
    const before = upstream.requests.length
    const chunk = Buffer.alloc(1000)
    if (version === '--http2') {
      const session = await openHttp2(bench)
      const stream = session.request({ ':path': '/', ':method': 'POST' })
      stream.on('error', () => undefined)
      stream.write(chunk)
      await until(() => upstream.requests.length > before)
      stream.destroy(new Error('gone'))
      await until(() => bench.of('http.response').at(-1)?.status === 0)
      session.destroy()
    } else {
      const socket = await openTls(bench, 'api.example.com')
      socket.write(
        'POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n',
      )
      await until(() => upstream.requests.length > before)
      socket.destroy()
    }
    const id = bench.of('http.request').at(-1)?.request
    await until(() => bench.of('http.response').some((fact) => fact.request === id))
    await new Promise((resolve) => setTimeout(resolve, 50))
    assert.equal(upstream.requests.at(-1)?.body, null)
  })

test('X-08: query and headers count', async () => {
  const tight = await startTight()
  const long = 'q'.repeat(4000)
  assert.equal((await tight.curl(`https://api.example.com/?${long}${'r'.repeat(200)}`)).status, 413)
  assert.equal(
    (await tight.curl('https://api.example.com/', '-H', `X-Long: ${long}${'r'.repeat(200)}`)).status,
    413,
  )
  await tight.close()
})

test('X-08: many requests just below the limit reach the minute’s end', async () => {
  const tight = await startTight()
  const statuses: number[] = []
  for (let count = 0; count < 4; count++)
    statuses.push((await tight.curl('https://api.example.com/', '--data-binary', 'a'.repeat(3500))).status)
  assert.equal(statuses[0], 200)
  assert.equal(statuses.at(-1), 429)
  await tight.close()
})

test('events of a stream arrive one by one', async () => {
  let held: ServerResponse | undefined
  const teller = await startUpstream({
    tls: testCa.issue(['api.example.com']),
    handle: (_, response) => {
      held = response.writeHead(200, { 'content-type': 'text/event-stream' })
      return true
    },
  })
  const tellerRule = rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port: teller.port } })
  const led = await startBench(planOf([tellerRule]))
  const socket = await openTls(led, 'api.example.com')
  let text = ''
  socket.on('data', (bytes: Buffer) => (text += bytes.toString()))
  socket.write('GET /sse HTTP/1.1\r\nHost: api.example.com\r\n\r\n')
  await until(() => held !== undefined)
  for (const n of [1, 2, 3]) {
    // The next is not sent before this one is there.
    held?.write(`data: event ${n}\n\n`)
    await until(() => text.includes(`event ${n}`))
  }
  held?.end()
  socket.destroy()
  await led.close()
  await teller.close()
})

test('trailers of an answer pass to a client that has trailers', async () => {
  const session = await openHttp2(bench)
  const stream = session.request({ ':path': '/trailers', te: 'trailers' })
  const trailers = await new Promise<Record<string, unknown>>((resolve) => {
    stream.on('trailers', resolve)
    stream.resume()
  })
  assert.equal(trailers['x-sum'], 'good')
  assert.equal(upstream.requests.at(-1)?.httpVersion, '2.0')
  assert.equal(upstream.requests.at(-1)?.headers.te, 'trailers')
  session.destroy()
})

test('N-27: extended CONNECT and CONNECT over HTTP/2 are refused', async () => {
  const session = await openHttp2(bench)
  session.on('error', () => undefined)
  const stream = session.request({ ':method': 'CONNECT', ':authority': 'evil.invalid:443' })
  const status = await new Promise((resolve) => {
    stream.on('response', (headers) => resolve(headers[constants.HTTP2_HEADER_STATUS]))
    stream.on('error', () => resolve('reset'))
  })
  assert.ok(status === 405 || status === 'reset', String(status))
  session.destroy()
})

/** Node's own WebSocket, led to the gate. */
async function openWebSocket(
  to: Bench,
  path: string,
): Promise<{ socket: Awaited<ReturnType<typeof openTls>>; head: string }> {
  const socket = await openTls(to, 'ws.example.com')
  socket.write(
    `GET ${path} HTTP/1.1\r\nHost: ws.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`,
  )
  const head = await new Promise<string>((resolve) =>
    socket.once('data', (bytes: Buffer) => resolve(bytes.toString())),
  )
  return { socket, head }
}

const frame = (text: string): Buffer => {
  const size = text.length < 126 ? [0x80 | text.length] : [0x80 | 126, text.length >> 8, text.length & 0xff]
  return Buffer.concat([Buffer.from([0x81, ...size, 0, 0, 0, 0]), Buffer.from(text)])
}

test('a WebSocket passes where a GET of its path does, both ways', async () => {
  const { socket, head } = await openWebSocket(bench, '/ws')
  assert.match(head, /^HTTP\/1\.1 101 /)
  assert.match(head, /Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=/i)
  const echo = new Promise<Buffer>((resolve) => socket.once('data', resolve))
  socket.write(frame('ping over the gate'))
  assert.equal((await echo).subarray(2).toString(), 'ping over the gate')
  socket.end()
  await until(() => bench.of('http.response').at(-1)?.status === 101)
  assert.ok((bench.of('http.response').at(-1)?.bytesOut ?? 0) > 100)
})

test('an upgrade pipelined behind an unanswered request is closed, and the gate lives on', async () => {
  const upgrade =
    'GET /ws HTTP/1.1\r\nHost: ws.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
  await rawTls(bench, 'ws.example.com', `GET /ws HTTP/1.1\r\nHost: ws.example.com\r\n\r\n${upgrade}`)
  assert.equal((await bench.curl('https://api.example.com/')).status, 200)
})

test('N-27: a WebSocket on another path is refused, and one the server declines says so', async () => {
  const { head, socket } = await openWebSocket(bench, '/other')
  assert.match(head, /^HTTP\/1\.1 403 /)
  assert.match(head, /path-not-allowed/)
  socket.destroy()
})

test('X-08: what a WebSocket sends without an answer counts as one request', async () => {
  const tight = await startTight()
  const { socket } = await openWebSocket(tight, '/ws')
  socket.on('error', () => undefined)
  const closed = new Promise((resolve) => socket.resume().once('close', resolve))
  socket.write(frame('x'.repeat(5000)))
  await closed
  assert.equal(tight.of('http.denied').at(-1)?.reason, 'upload.per-request')
  await tight.close()
})

test('X-08: frames count, and the limit cuts the WebSocket', async () => {
  const wide = await startTight()
  const { socket, head } = await openWebSocket(wide, '/ws')
  assert.match(head, /^HTTP\/1\.1 101 /)
  socket.on('error', () => undefined)
  const closed = new Promise((resolve) => socket.once('close', resolve))
  const frames = upstream.frames.length
  // One frame an answer, so that each is a turn of its own: the minute's allowance is what ends it.
  socket.on('data', () => socket.write(frame('x'.repeat(1000))))
  socket.write(frame('x'.repeat(1000)))
  await closed
  assert.ok(upstream.frames.length - frames < 10)
  assert.equal(wide.of('http.denied').at(-1)?.reason, 'upload.per-minute')
  await wide.close()
})
