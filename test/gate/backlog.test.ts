/**
 * Bodies that come byte by byte for somebody that does not read: what waits takes the memory of its bytes, not of the
 * pieces or of the network reads in which they came, and arrives whole once it is read.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectHttp2, createSecureServer, type ServerHttp2Stream } from 'node:http2'
import {
  type AddressInfo,
  connect as connectTcp,
  createServer as createTcpServer,
  type Server,
  type Socket,
} from 'node:net'
import { duplexPair, Writable } from 'node:stream'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Backlog, gather, Outlet } from '../../src/gate/backlog.ts'
import type { Injection } from '../../src/gate/credential.ts'
import { FrameScrubber } from '../../src/gate/frames.ts'
import { Link } from '../../src/gate/link.ts'
import { Reply } from '../../src/gate/reply.ts'
import {
  ACK,
  DATA,
  END_HEADERS,
  frame,
  HEADERS,
  pinger,
  PREFACE,
  requestHead,
  SETTINGS,
  UNKNOWN,
} from './http2-peer.ts'
import { type Bench, helloWithoutKey, planOf, rule, startBench, testCa, tlsTo, until } from './harness.ts'

const HOST = 'api.example.com'
const leaf = testCa.issue([HOST])
setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** Bytes that this process keeps, the gate's among them. */
async function kept(): Promise<number> {
  // What one collection found unused, the next one counts as free.
  for (let count = 0; count < 3; count++) {
    gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const MIB = 1 << 20
/** Bytes that can be told apart, so that order shows. */
const pattern = (length: number): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, at) => (at * 7919) >> 3))

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => server.close())
  return (server.address() as AddressInfo).port
}

async function benchTo(port: number): Promise<Bench> {
  const upload = { perRequest: 64 * MIB, perMinute: 1 << 30, perSession: 1 << 30 }
  const bench = await startBench(
    planOf([rule({ host: HOST, connect: { address: '127.0.0.1', port } })], { upload }),
  )
  after(() => bench.close())
  return bench
}

async function agent(bench: Bench, ...alpn: string[]): Promise<TLSSocket> {
  const socket = await tlsTo(bench, HOST, { ALPNProtocols: alpn })
  socket.on('error', () => undefined)
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  return socket
}

const sent = (socket: Socket): Promise<void> => until(() => socket.writableLength === 0, 20_000)

/** A byte of a body at the beginning of a record that holds nothing else of use. */
const alone = (byte: Buffer): Buffer =>
  Buffer.concat([frame(DATA, 0, 1, byte), frame(UNKNOWN, 0, 0, Buffer.alloc(16_384 - 19))])

interface ByteByByte {
  readonly bytes: number
  /** Bytes whose frames are one write. */
  readonly together: number
  readonly make: (byte: Buffer) => Buffer
}

const BODIES: Readonly<Record<string, ByteByByte>> = {
  'bytes in records of 16 KiB': { bytes: 3000, together: 1, make: alone },
  'a frame for each byte': {
    bytes: 200_000,
    together: 1000,
    make: (byte) => frame(DATA, 0, 1, byte),
  },
}

/** Sends a body of which the gate, that has `read` it, keeps little more than its bytes; answers with that body. */
async function byteByByte(
  socket: Socket,
  read: () => Promise<unknown>,
  { bytes, together, make }: ByteByByte,
): Promise<Buffer> {
  const body = pattern(bytes)
  const before = await kept()
  for (let at = 0; at < bytes; at += together) {
    const pieces = Array.from(body.subarray(at, at + together), (byte) => make(Buffer.of(byte)))
    socket.write(Buffer.concat(pieces))
    if (at % 20_000 === 0) await read()
  }
  await read()
  const growth = (await kept()) - before

  assert.ok(growth < 8 * MIB, `${growth} bytes more for ${bytes}`)
  return body
}

for (const [name, bodies] of Object.entries(BODIES))
  test(`HTTP/2: an upload of ${name} that its server does not read`, async () => {
    const server = createSecureServer({ ...leaf, settings: { initialWindowSize: 0 } })
    const arrived = new Promise<ServerHttp2Stream>((resolve) => server.on('stream', resolve))
    const bench = await benchTo(await listen(server))
    const socket = await agent(bench, 'h2')
    const read = pinger(socket)
    socket.write(Buffer.concat([PREFACE, frame(SETTINGS, ACK, 0, Buffer.alloc(0))]))
    socket.write(frame(HEADERS, END_HEADERS, 1, requestHead(HOST, 'POST')))
    const stream = await arrived
    const body = await byteByByte(socket, read, bodies)
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.session?.settings({ initialWindowSize: 65_535 })
    socket.write(frame(DATA, 1, 1, Buffer.alloc(0)))
    await new Promise((resolve) => stream.once('end', resolve))
    assert.ok(Buffer.concat(chunks).equals(body))
    stream.respond({ ':status': 204 }, { endStream: true })
    await until(() => bench.of('http.response').length === 1)
    assert.ok((bench.of('http.response')[0]?.bytesOut ?? 0) >= bodies.bytes)
    socket.destroy()
  })

/** Asks for / over HTTP/2 without reading; `read` lets it come. */
async function unread(bench: Bench): Promise<{ read: () => Promise<Buffer>; close: () => void }> {
  const socket = await agent(bench, 'h2')
  const session = connectHttp2(`https://${HOST}`, {
    createConnection: () => socket,
    settings: { initialWindowSize: 0 },
  })
  const stream = session.request({ ':path': '/' })
  await new Promise((resolve) => stream.once('response', resolve))
  const read = async (): Promise<Buffer> => {
    session.settings({ initialWindowSize: MIB })
    return Buffer.concat(await stream.toArray())
  }
  return { read, close: () => session.destroy() }
}

for (const [name, bodies] of Object.entries(BODIES))
  test(`HTTP/2: an answer of ${name} that the agent does not read`, async () => {
    const server = createTlsServer({ ...leaf, ALPNProtocols: ['h2'] })
    const arrived = new Promise<TLSSocket>((resolve) => server.once('secureConnection', resolve))
    const bench = await benchTo(await listen(server))
    const asked = unread(bench)
    const socket = await arrived
    socket.on('error', () => undefined)
    const read = pinger(socket)
    socket.write(frame(SETTINGS, 0, 0, Buffer.alloc(0)))
    socket.write(frame(SETTINGS, ACK, 0, Buffer.alloc(0)))
    await read()
    socket.write(frame(HEADERS, END_HEADERS, 1, Buffer.from([0x88])))
    const answer = await asked
    const body = await byteByByte(socket, read, bodies)
    socket.write(frame(DATA, 1, 1, Buffer.alloc(0)))
    assert.ok((await answer.read()).equals(body))
    answer.close()
    socket.destroy()
  })

const chunked = (body: Buffer): Buffer =>
  Buffer.concat(Array.from(body, (byte) => Buffer.from([0x31, 13, 10, byte, 13, 10])))

test('HTTP/1: an answer of chunks of a byte that the agent does not read', async () => {
  const server = createTlsServer({ ...leaf, ALPNProtocols: ['http/1.1'] })
  const body = pattern(60_000)
  const tell = Promise.withResolvers<() => void>()
  server.on('secureConnection', (socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
      tell.resolve(() => socket.write(Buffer.concat([chunked(body), Buffer.from('0\r\n\r\n')])))
    })
  })
  const bench = await benchTo(await listen(server))
  const answer = await unread(bench)
  const before = await kept()
  ;(await tell.promise)()
  await new Promise((resolve) => setTimeout(resolve, 300))
  const growth = (await kept()) - before
  assert.ok(growth < 2 * MIB, `${growth} bytes more for ${body.length}`)
  assert.ok((await answer.read()).equals(body))
  answer.close()
})

test('HTTP/1: an upload of chunks of a byte to a session that is stopped meanwhile', async () => {
  const chunks: Buffer[] = []
  const server = createTlsServer({ ...leaf, ALPNProtocols: ['http/1.1'] })
  server.on('secureConnection', (socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  })
  const bench = await benchTo(await listen(server))
  const socket = await agent(bench, 'http/1.1')
  socket.write(`POST / HTTP/1.1\r\nHost: ${HOST}\r\nTransfer-Encoding: chunked\r\n\r\n`)
  await until(() => chunks.length > 0)
  bench.gate.pause('for the test')
  const body = pattern(60_000)
  const before = await kept()
  for (let at = 0; at < body.length; at += 1000) socket.write(chunked(body.subarray(at, at + 1000)))
  await sent(socket)
  await new Promise((resolve) => setTimeout(resolve, 300))
  const growth = (await kept()) - before
  assert.ok(growth < 2 * MIB, `${growth} bytes more for ${body.length}`)
  bench.gate.resume()
  socket.write('0\r\n\r\n')
  const all = (): Buffer => Buffer.concat(chunks)
  await until(() => all().subarray(-5).equals(Buffer.from('0\r\n\r\n')))
  const bytes = all()
  const got: Buffer[] = []
  for (let at = bytes.indexOf('\r\n\r\n') + 4; ; ) {
    const end = bytes.indexOf('\r\n', at)
    const length = Number.parseInt(bytes.toString('latin1', at, end), 16)
    if (length === 0) break
    got.push(bytes.subarray(end + 2, end + 2 + length))
    at = end + 2 + length + 2
  }
  assert.ok(Buffer.concat(got).equals(body))
  socket.destroy()
})

test('a tunnel whose client sends byte by byte while the session is stopped', async () => {
  const chunks: Buffer[] = []
  const server = createTcpServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  })
  const port = await listen(server)
  const pinned = rule({
    host: HOST,
    ports: [port],
    raw: true,
    inspect: false,
    ca: null,
    connect: { address: '127.0.0.1', port },
  })
  const bench = await startBench(planOf([pinned]))
  after(() => bench.close())
  bench.aim((await bench.lookup(HOST)).addresses[0] ?? '', port)
  const socket = connectTcp({ host: '127.0.0.1', port: bench.ports.tcp, noDelay: true })
  socket.on('error', () => undefined)
  const body = pattern(10_000)
  socket.write(body.subarray(0, 1))
  await until(() => chunks.length > 0)
  bench.gate.pause('for the test')
  const before = await kept()
  for (let at = 1; at < body.length; at++) {
    socket.write(body.subarray(at, at + 1))
    // The gate has read it, or leaves it to the kernel.
    await new Promise((resolve) => setImmediate(resolve))
  }
  const growth = (await kept()) - before
  assert.ok(growth < MIB, `${growth} bytes more for ${body.length}`)
  bench.gate.resume()
  await until(() => Buffer.concat(chunks).length === body.length)
  assert.ok(Buffer.concat(chunks).equals(body))
  socket.destroy()
})

test('a tunnel whose client sends byte by byte while its server is asked for a certificate', async () => {
  const came: Socket[] = []
  const held = createTcpServer({ pauseOnConnect: true }, (socket) => {
    socket.on('error', () => undefined)
    came.push(socket)
  })
  const certified = createTlsServer(leaf, (socket) => socket.on('error', () => undefined))
  const connect = { address: '127.0.0.1', port: await listen(held) }
  const bench = await startBench(planOf([rule({ host: HOST, inspect: false, connect })]))
  after(() => bench.close())
  bench.aim((await bench.lookup(HOST)).addresses[0] ?? '', 443)
  const hello = await helloWithoutKey(HOST)
  const socket = connectTcp({ host: '127.0.0.1', port: bench.ports.tcp, noDelay: true })
  socket.on('error', () => undefined)
  socket.write(hello)
  await until(() => came.length === 1)
  const body = pattern(10_000)
  const before = await kept()
  for (let at = 0; at < body.length; at++) {
    socket.write(body.subarray(at, at + 1))
    await new Promise((resolve) => setImmediate(resolve))
  }
  const growth = (await kept()) - before
  assert.ok(growth < MIB, `${growth} bytes more for ${body.length}`)
  const [probe] = came
  certified.emit('connection', probe)
  await until(() => came.length === 2)
  const chunks: Buffer[] = []
  came[1]?.on('data', (chunk: Buffer) => chunks.push(chunk)).resume()
  await until(() => Buffer.concat(chunks).length === hello.length + body.length)
  assert.ok(Buffer.concat(chunks).equals(Buffer.concat([hello, body])))
  socket.destroy()
})

test('messages of an open stream pass one by one, each way, for as long as it lives', async () => {
  const server = createSecureServer(leaf, (request, response) => {
    response.writeHead(200, { 'content-type': 'application/grpc' })
    request.on('data', (chunk: Buffer) => response.write(chunk))
    request.on('end', () => response.end())
  })
  const bench = await benchTo(await listen(server))
  const socket = await agent(bench, 'h2')
  const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket })
  const stream = session.request({ ':path': '/', ':method': 'POST' }, { endStream: false })
  for (let count = 0; count < 2000; count++) {
    stream.write(`message ${count}`)
    const chunk = await new Promise((resolve) => stream.once('data', resolve))
    assert.equal(String(chunk), `message ${count}`)
  }
  stream.end()
  await new Promise((resolve) => stream.once('end', resolve))
  session.destroy()
})

test('a backlog gives back what came, in few pieces', () => {
  const backlog = new Backlog()
  const body = pattern(300_000)
  for (let at = 0, size = 1; at < body.length; at += size, size = (size * 5) % 9973)
    backlog.add(body.subarray(at, at + size))
  assert.equal(backlog.length, body.length)
  const pieces = backlog.take()
  assert.ok(pieces.length < 20)
  assert.ok(Buffer.concat(pieces).equals(body))
  assert.equal(backlog.length, 0)
  assert.deepEqual(backlog.take(), [])
})

test('a sink that is busy gets small pieces together and large ones as they are', async () => {
  const seen: Buffer[] = []
  let done: (() => void) | null = null
  const sink = new Writable({
    write: (chunk: Buffer, _, then) => {
      seen.push(chunk)
      done = then
    },
  })
  const outlet = new Outlet(sink)
  const body = pattern(40_000)
  for (let at = 0; at < 30_000; at++) assert.equal(outlet.write(body.subarray(at, at + 1)), true)
  outlet.write(body.subarray(30_000, 39_999))
  outlet.write(body.subarray(39_999))
  const ended = new Promise((resolve) => sink.once('finish', resolve))
  outlet.end()
  for (; done; await new Promise((resolve) => setImmediate(resolve))) {
    const then: () => void = done
    done = null
    then()
  }
  await ended
  assert.ok(Buffer.concat(seen).equals(body))
  assert.ok(seen.length < 16, `${seen.length}`)
})

test('a stream that is read late, paused, read and ended gives all in order', async () => {
  const body = pattern(50_000)
  const [near, far] = duplexPair()
  gather(far)
  for (const byte of body.subarray(0, 10_000)) near.write(Buffer.from([byte]))
  const seen: Buffer[] = []
  let pauses = 0
  far.on('data', (chunk: Buffer) => {
    seen.push(chunk)
    if (pauses++ % 10 > 0) return
    far.pause()
    setImmediate(() => far.resume())
  })
  for (let at = 10_000; at < body.length; at += 7) {
    near.write(body.subarray(at, at + 7))
    if (at % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  near.end()
  await new Promise((resolve) => far.once('end', resolve))
  assert.ok(Buffer.concat(seen).equals(body))
})

test('uploads that no server reads keep 128 MiB together, and the next one is refused', async () => {
  const server = createSecureServer({
    ...leaf,
    settings: { initialWindowSize: 0, maxConcurrentStreams: 1000 },
  })
  server.on('stream', (stream, { ':method': method }) => {
    stream.on('error', () => undefined)
    if (method === 'GET') stream.respond({ ':status': 204 }, { endStream: true })
  })
  const bench = await benchTo(await listen(server))
  const sessions = await Promise.all(
    Array.from({ length: 12 }, async () => {
      const socket = await agent(bench, 'h2')
      return connectHttp2(`https://${HOST}`, { createConnection: () => socket })
    }),
  )
  const piece = Buffer.alloc(256 << 10)
  const refused = (): number =>
    bench.of('http.denied').filter(({ reason }) => reason === 'gate.too-much-waits').length
  const upload = (count: number): void => {
    const stream = sessions[count % 12]?.request({ ':path': '/', ':method': 'POST' }, { endStream: false })
    stream?.on('error', () => undefined)
    stream?.write(piece)
  }
  for (let count = 0; count < 500; count++) upload(count)
  await until(() => bench.of('http.request').length === 500, 20_000)
  await new Promise((resolve) => setTimeout(resolve, 1000))
  assert.equal(refused(), 0, 'some 90 MiB may wait')
  for (let count = 0; count < 500; count++) upload(count)
  await until(() => refused() > 0, 60_000)
  await until(() => bench.of('http.request').length === 1000, 60_000)
  assert.ok(refused() < 500, `${refused()} of 1000`)
  for (const session of sessions) session.destroy()
  await until(() => bench.of('http.response').length === 1000, 60_000)
  // Another connection to the server: of that one it may refuse every further stream.
  const end = performance.now() + 20_000
  for (let status = 0; status !== 204; await sleep(100)) {
    assert.ok(performance.now() < end, `${status}`)
    const socket = await agent(bench, 'h2')
    const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket })
    const [head] = (await once(session.request({ ':path': '/' }), 'response')) as [{ ':status': number }]
    status = head[':status']
    session.destroy()
  }
})

test('frames without a payload go on together', async () => {
  const injection = { needles: ['a secret of some length'] } as unknown as Injection
  const scrubber = FrameScrubber.for(injection)
  assert.ok(scrubber)
  let pieces = 0
  const bytes: Buffer[] = []
  const push = scrubber.push.bind(scrubber)
  scrubber.push = (chunk: Buffer) => {
    pieces++
    bytes.push(chunk)
    return push(chunk)
  }
  const frames = Buffer.alloc(65_536, Buffer.from([0x81, 0]))
  scrubber.write(frames)
  assert.equal(pieces, 1)
  assert.ok(Buffer.concat(bytes).equals(frames))
  // Nor is one lost that came together with one that cannot be read.
  const other = FrameScrubber.for(injection)
  const whole: Buffer[] = []
  other?.on('data', (chunk: Buffer) => whole.push(chunk))
  other?.write(Buffer.from([0x81, 2, 0x68, 0x69, 0xc1, 0]))
  await assert.rejects(once(other as FrameScrubber, 'end'), /a frame of an extension/)
  assert.equal(Buffer.concat(whole).toString('latin1', 2), 'hi')
})

test('whoever writes to an exchange that is over is told that the bytes are out of hand', () => {
  const [near] = duplexPair()
  const pipe = near as unknown as Socket
  const link = new Link(pipe, () => undefined)
  const reply = new Reply(pipe, 'GET', undefined, () => undefined)
  link.send({ method: 'POST', path: '/', headers: ['Content-Length', '1'], length: 1 }).catch(() => undefined)
  reply.writeHead(200, ['Content-Length', '1'])
  for (const sink of [link, reply]) {
    let told = 0
    // More than was declared, and then something on the connection that this broke.
    for (const text of ['ab', 'c']) sink.write(Buffer.from(text), undefined, () => void told++)
    assert.equal(told, 2, sink.constructor.name)
  }
})
