/** Native connections do what Node's do: whom they believe, what they count, when they stop. */
import assert from 'node:assert/strict'
import { createHash, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import {
  type AddressInfo,
  connect as connectTcp,
  createServer as createTcpServer,
  type Socket,
} from 'node:net'
import { after, test } from 'node:test'
import { createServer as createTlsServer, type TlsOptions, type TLSSocket } from 'node:tls'
import { Wire, type WireSocket } from '../../src/gate/wire.ts'
import { createTestCa } from '../fixtures/servers/certificates.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { type Bench, helloWithoutKey, planOf, rule, startBench, testCa, tlsTo, until } from './harness.ts'

const HOST = 'api.example.com'
const leaf = testCa.issue([HOST])
const der = (pem: string): Buffer => new X509Certificate(pem).raw
const closed = (socket: WireSocket) =>
  new Promise<string | null>((resolve) => socket.once('close', () => resolve(socket.ending)))

async function withServer(options: TlsOptions, talk: (socket: TLSSocket) => void) {
  const server = createTlsServer({ ...leaf, ...options }, (socket) => {
    socket.on('error', () => undefined)
    talk(socket)
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => server.close())
  return (server.address() as AddressInfo).port
}

const wire = new Wire()
after(() => wire.stop())

test('a server is believed by the certificate that was verified for it, and no other', async () => {
  const port = await withServer({ ALPNProtocols: ['http/1.1'] }, (socket) => socket.pipe(socket))
  const same = wire.connect('127.0.0.1', port, HOST, wire.target(der(leaf.cert)))
  await once(same, 'secure')
  same.write('to and fro')
  assert.equal(String((await once(same, 'data'))[0]), 'to and fro')
  same.destroy()
  // Issued by the same authority for the same name: still not the one that was looked at.
  const other = wire.connect('127.0.0.1', port, HOST, wire.target(der(testCa.issue([HOST]).cert)))
  assert.equal(await closed(other), 'unknown')
})

test('a server without TLS 1.3, one without TLS and none at all are no connection', async () => {
  const old = await withServer({ maxVersion: 'TLSv1.2' }, () => undefined)
  const target = wire.target(der(leaf.cert))
  assert.equal(await closed(wire.connect('127.0.0.1', old, HOST, target)), 'tls')
  const plain = createTcpServer((socket) => socket.resume().end('SSH-2.0-x\r\n')).listen(0, '127.0.0.1')
  await once(plain, 'listening')
  const { port } = plain.address() as AddressInfo
  assert.equal(await closed(wire.connect('127.0.0.1', port, HOST, target)), 'tls')
  await new Promise((resolve) => plain.close(resolve))
  assert.equal(await closed(wire.connect('127.0.0.1', port, HOST, target)), 'broken')
})

test('a forgotten target and a forgotten connection are errors, not somebody else', async () => {
  const target = wire.target(der(leaf.cert))
  wire.forgetTarget(target)
  assert.throws(() => wire.connect('127.0.0.1', 1, HOST, target), /no such target/)
  assert.throws(() => wire.connect('not an address', 1, HOST, target))
})

test('bytes come whole and in order, through pauses and for a peer that ended its side', async () => {
  const sent = Buffer.alloc(3 << 20, 'abcdefg')
  const port = await withServer({ allowHalfOpen: true }, (socket) => {
    const hash = createHash('sha256')
    socket.on('data', (chunk: Buffer) => hash.update(chunk))
    socket.on('end', () => socket.end(Buffer.concat([sent, hash.digest()])))
  })
  const socket = wire.connect('127.0.0.1', port, HOST, wire.target(der(leaf.cert)))
  await once(socket, 'secure')
  for (let at = 0; at < sent.length; at += 100_000)
    if (!socket.write(sent.subarray(at, at + 100_000))) await once(socket, 'drain')
  socket.end()
  const got: Buffer[] = []
  socket.on('data', (chunk: Buffer) => {
    got.push(chunk)
    socket.pause()
    setImmediate(() => socket.resume())
  })
  await once(socket, 'end')
  const all = Buffer.concat(got)
  assert.ok(all.subarray(0, sent.length).equals(sent))
  assert.ok(all.subarray(sent.length).equals(createHash('sha256').update(sent).digest()))
})

test('who writes to a reader that reads nothing is told to wait, and nobody keeps what it was not told of', async () => {
  const port = await withServer({}, (socket) => socket.pause())
  const socket = wire.connect('127.0.0.1', port, HOST, wire.target(der(leaf.cert)))
  await once(socket, 'secure')
  let written = 0
  while (socket.write(Buffer.alloc(65_536)))
    if ((written += 65_536) > 64 << 20) assert.fail('never told to wait')
  assert.ok(socket.writableNeedDrain)
  socket.destroy()
  assert.equal(socket.ending, 'closed')
})

const upstream = await startUpstream({ tls: leaf })
after(() => upstream.close())
const planAt = (port: number, upload = {}) =>
  planOf([rule({ host: HOST, connect: { address: '127.0.0.1', port } })], {
    upload: { perRequest: 1 << 30, perMinute: 1 << 30, perSession: 1 << 30, ...upload },
  })

/** A request of a client without HTTP/2, and all that comes back. */
async function open(bench: Bench, head: string): Promise<{ socket: TLSSocket; text: () => string }> {
  const socket = await tlsTo(bench, HOST)
  let text = ''
  socket.on('error', () => undefined)
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')))
  socket.write(head.replaceAll('\n', '\r\n'))
  return { socket, text: () => text }
}
const post = (length: number, path = '/echo'): string =>
  `POST ${path} HTTP/1.1\nHost: ${HOST}\nContent-Length: ${length}\n\n`

/** The first connection is Node's, which verifies; it is over before the next request. */
async function acquainted(bench: Bench): Promise<void> {
  const { socket, text } = await open(bench, `GET / HTTP/1.1\nHost: ${HOST}\nConnection: close\n\n`)
  await once(socket, 'close')
  assert.match(text(), /^HTTP\/1\.1 200 [^]*hello/)
}

test('a native upload arrives whole, counted to the byte', async () => {
  const bench = await startBench(planAt(upstream.port))
  await acquainted(bench)
  const body = Buffer.alloc(5_000_001, 'upload')
  const { socket, text } = await open(bench, post(body.length))
  socket.write(body)
  await until(() => bench.of('http.response').length === 2, 10_000)
  const seen = upstream.requests.at(-1)
  assert.equal(seen?.body?.sha256, createHash('sha256').update(body).digest('hex'))
  await until(() => text().startsWith('HTTP/1.1 200 '))
  const [request, response] = [bench.of('http.request').at(-1), bench.of('http.response').at(-1)]
  assert.equal(response?.bytesOut, request?.bytes)
  // The same connection serves the next request.
  socket.write(`GET / HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`)
  await until(() => text().includes('hello'))
  socket.destroy()
  await bench.close()
})

test('an upload that freezes stops at once, and goes on whole', async () => {
  const bench = await startBench(planAt(upstream.port))
  await acquainted(bench)
  const body = Buffer.alloc(4 << 20, 'frozen')
  const { socket } = await open(bench, post(body.length))
  socket.write(body.subarray(0, 1 << 20))
  const before = upstream.bytes()
  await until(() => upstream.bytes() - before > 1 << 20)
  bench.state.stopped = 'frozen'
  const held = upstream.bytes()
  socket.write(body.subarray(1 << 20))
  await new Promise((resolve) => setTimeout(resolve, 300))
  assert.equal(upstream.bytes(), held)
  bench.state.stopped = null
  await until(() => bench.of('http.response').length === 2, 10_000)
  assert.equal(upstream.requests.at(-1)?.body?.sha256, createHash('sha256').update(body).digest('hex'))
  socket.destroy()
  await bench.close()
})

test('X-08: the minute ends an upload under way; what went out is what was counted', async () => {
  const limit = 2 << 20
  const bench = await startBench(planAt(upstream.port, { perMinute: limit }))
  await acquainted(bench)
  const { socket, text } = await open(bench, post(1_500_000))
  socket.write(Buffer.alloc(500_000))
  await until(() => upstream.requests.at(-1)?.url === '/echo')
  const other = await open(bench, post(1_000_000))
  other.socket.write(Buffer.alloc(1_000_000))
  await until(() => bench.of('http.response').length === 2, 10_000)
  const received = upstream.bytes()
  socket.write(Buffer.alloc(1_000_000))
  await until(() => bench.of('http.denied').length === 1, 10_000)
  assert.equal(bench.of('http.denied')[0]?.reason, 'upload.per-minute')
  await until(() => text().includes('429') || text().includes('403'))
  await until(() => bench.of('http.response').length === 3)
  const counted = bench.of('http.response').reduce((sum, { bytesOut }) => sum + bytesOut, 0)
  assert.ok(counted <= limit, `${counted} of ${limit}`)
  assert.ok(upstream.bytes() - received < 700_000, 'the rest stayed here')
  for (const one of [socket, other.socket]) one.destroy()
  await bench.close()
})

test('an answer that breaks off in the turn of its head is seen to be short', async () => {
  const short = await withServer({}, (socket) => {
    socket.once('data', (bytes: Buffer) => {
      const whole = bytes.includes('GET / ')
      socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${whole ? 5 : 100}\r\n\r\nhello`)
    })
  })
  const bench = await startBench(planAt(short))
  await acquainted(bench)
  const { socket, text } = await open(bench, `GET /short HTTP/1.1\nHost: ${HOST}\n\n`)
  await once(socket, 'close')
  assert.ok(text() === '' || text().includes('Content-Length: 100'), text())
  await bench.close()
})

test('an answer before the body is whole reaches the client; the rest of the body goes nowhere', async () => {
  const hasty = await startUpstream({
    tls: leaf,
    handle: (request, response) => {
      if (request.method !== 'POST') return false
      response.writeHead(413, { 'content-length': 3, connection: 'close' })
      response.end('big')
      return true
    },
  })
  const bench = await startBench(planAt(hasty.port))
  await acquainted(bench)
  const { socket, text } = await open(bench, post(50 << 20))
  const piece = Buffer.alloc(1 << 20)
  socket.setMaxListeners(120)
  for (let sent = 0; sent < 50 && !socket.destroyed; sent++)
    if (!socket.write(piece)) await Promise.race([once(socket, 'drain'), once(socket, 'close')])
  await until(() => text().endsWith('big'))
  assert.match(text(), /^HTTP\/1\.1 413 /)
  assert.ok(hasty.bytes() < 40 << 20)
  socket.destroy()
  await bench.close()
  await hasty.close()
})

test('a server that breaks off in mid-upload is a refusal that the client gets to read', async () => {
  let seen = 0
  const broken = await startUpstream({
    tls: leaf,
    handle: (request) => {
      if (request.method !== 'POST') return false
      const { socket } = request as unknown as { socket: Socket }
      request.on('data', (chunk: Buffer) => {
        if ((seen += chunk.length) > 2 << 20) socket.destroy()
      })
      return true
    },
  })
  const bench = await startBench(planAt(broken.port))
  await acquainted(bench)
  const { socket, text } = await open(bench, post(20 << 20))
  socket.write(Buffer.alloc(20 << 20))
  await until(() => text().includes('upstream.failed'), 4000)
  assert.match(text(), /^HTTP\/1\.1 502 /)
  // All of the body was read and thrown away: no reset overtakes the answer.
  await until(() => socket.writableLength === 0, 4000)
  socket.destroy()
  await bench.close()
  await broken.close()
})

test('connections that serve two clients in turns are on record once for each client', async () => {
  const bench = await startBench(planAt(upstream.port))
  await acquainted(bench)
  const before = bench.of('net.open').length
  const request = `GET / HTTP/1.1\nHost: ${HOST}\n\n`
  const clients = await Promise.all([open(bench, request), open(bench, request)])
  for (let turn = 2; turn <= 20; turn++) {
    for (const { socket } of clients) socket.write(request.replaceAll('\n', '\r\n'))
    await until(() => clients.every(({ text }) => text().split('hello').length > turn))
  }
  const opened = bench.of('net.open').slice(before)
  assert.equal(new Set(opened.map(({ flow }) => flow)).size, 2)
  // Each client may get each connection that there is; a few are replaced at the beginning.
  assert.ok(opened.length <= 8, `${opened.length} records of 40 requests`)
  for (const { socket } of clients) socket.destroy()
  await bench.close()
})

test('a client that ends or breaks off in mid-upload is no whole request', async () => {
  const bench = await startBench(planAt(upstream.port))
  await acquainted(bench)
  for (const leave of [(socket: Socket) => socket.end(), (socket: Socket) => socket.destroy()]) {
    const [count, before] = [bench.of('http.response').length, upstream.bytes()]
    const { socket } = await open(bench, post(2_000_000))
    socket.write(Buffer.alloc(1_000_000))
    await until(() => upstream.bytes() - before > 500_000)
    leave(socket)
    await until(() => bench.of('http.response').length > count)
    assert.equal(upstream.requests.at(-1)?.body, null)
  }
  await bench.close()
})

test('a server with another certificate is verified anew, and refused by the same reasons', async () => {
  const first = await startUpstream({ tls: leaf })
  const { port } = first
  const bench = await startBench(planAt(port))
  await acquainted(bench)
  await acquainted(bench)
  await first.close()
  const second = await startUpstream({ tls: testCa.issue([HOST]), port })
  await acquainted(bench)
  await acquainted(bench)
  assert.equal(new Set(bench.of('net.open').map(({ tls }) => tls?.sha256)).size, 2)
  await second.close()
  const third = await startUpstream({ tls: createTestCa('Somebody').issue([HOST]), port })
  const { socket, text } = await open(bench, `GET / HTTP/1.1\nHost: ${HOST}\n\n`)
  await until(() => text().includes('upstream.certificate'))
  assert.equal(third.requests.length, 0)
  socket.destroy()
  await third.close()
  await bench.close()
})

test('Q-06: answers that nobody reads stay at the server, and others are served', async () => {
  const bench = await startBench(planAt(upstream.port))
  await acquainted(bench)
  const sockets = await Promise.all(Array.from({ length: 40 }, () => tlsTo(bench, HOST)))
  for (const socket of sockets) socket.on('error', () => undefined)
  await until(() => sockets.every((socket) => socket.authorized), 10_000)
  const before = bench.gate.totals().bytesIn
  for (const socket of sockets) {
    socket.pause()
    socket.write(`GET /bytes?n=2000000 HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`)
  }
  await until(() => bench.of('net.open').length > 40, 10_000)
  await new Promise((resolve) => setTimeout(resolve, 300))
  // What left the server lies in buffers of the kernel and, of each answer, some 200 KB here.
  assert.ok(bench.gate.totals().bytesIn - before < 40 * 256_000, String(bench.gate.totals().bytesIn))
  const { text, socket } = await open(bench, `GET / HTTP/1.1\nHost: ${HOST}\n\n`)
  await until(() => text().includes('hello'))
  for (const one of [socket, ...sockets]) one.destroy()
  await bench.close()
})

test('Q-06: who asks on and on and reads no answer is served no further, until it reads', async () => {
  const bench = await startBench(planAt(upstream.port))
  await acquainted(bench)
  const [before, many] = [upstream.requests.length, 400]
  const socket = await tlsTo(bench, HOST)
  await once(socket, 'secureConnect')
  socket.on('error', () => undefined)
  socket.pause()
  socket.write(`GET /bytes?n=60000 HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`.repeat(many))
  await until(() => upstream.requests.length - before > 4)
  let served = -1
  for (let last = -2; last !== served; await new Promise((resolve) => setTimeout(resolve, 400)))
    [last, served] = [served, upstream.requests.length - before]
  // The rest is what the buffers of two kernels hold.
  assert.ok(served < 200, `${served} of ${many} answers that nobody reads`)
  let bytes = 0
  socket.on('data', (chunk: Buffer) => (bytes += chunk.length))
  socket.resume()
  await until(() => bytes > many * 60_000, 20_000)
  assert.equal(upstream.requests.length - before, many, 'control: all of them, once they are read')
  socket.destroy()
  await bench.close()
})

/** A piece of a handshake message, and what may not follow it. */
const BROKEN = [Buffer.from('160303000102', 'hex'), Buffer.from('170303000100', 'hex')]

test('a server that breaks off a message of the handshake ends its connection, not the gate', async () => {
  const rude = createTcpServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => {
      for (const piece of BROKEN) socket.write(piece)
    })
  }).listen(0, '127.0.0.1')
  await once(rude, 'listening')
  const { port } = rude.address() as AddressInfo
  assert.equal(await closed(wire.connect('127.0.0.1', port, HOST, wire.target(der(leaf.cert)))), 'tls')
  await new Promise((resolve) => rude.close(resolve))
})

test('a client that does so, where it has to say hello again, ends its own connection alone', async () => {
  const bench = await startBench(planAt(upstream.port))
  const hello = await helloWithoutKey(HOST)
  const { addresses } = await bench.lookup(HOST)
  bench.aim(addresses[0] ?? HOST, 443)
  const socket = connectTcp(bench.ports.tcp, '127.0.0.1').on('error', () => undefined)
  socket.write(hello)
  const [retry] = (await once(socket, 'data')) as [Buffer]
  assert.equal(retry[5], 2, 'control: it asks for another hello')
  for (const piece of [Buffer.from('160303000101', 'hex'), Buffer.from('170303000100', 'hex')])
    socket.write(piece)
  await once(socket.resume(), 'close')
  await acquainted(bench)
  await bench.close()
})
