/** Connections to servers that speak HTTP/2: which requests share one, and when it goes. */
import assert from 'node:assert/strict'
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  constants,
  createSecureServer,
  createServer as createHttp2Server,
  type IncomingHttpHeaders,
  type SecureServerOptions,
  type ServerHttp2Stream,
} from 'node:http2'
import { once } from 'node:events'
import type { AddressInfo, Server, Socket } from 'node:net'
import { duplexPair } from 'node:stream'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import { Http2Pool, type LinkPool } from '../../src/gate/pool.ts'
import type { Dialler, Target } from '../../src/gate/upstream.ts'
import { type Bench, planOf, rule, startBench, testCa, tlsTo, until } from './harness.ts'

const HOST = 'api.example.com'
const leaf = testCa.issue([HOST])
const closers: (() => unknown)[] = []
after(() => Promise.all(closers.map((close) => close())))

type Answer = (stream: ServerHttp2Stream, path: string) => unknown

const CALM = constants.NGHTTP2_ENHANCE_YOUR_CALM
const yes = (stream: ServerHttp2Stream): void => stream.respond({ ':status': 204 }, { endStream: true })
/** `/calm` is refused as servers do that have enough of a connection; anything else is 204. */
const calm: Answer = (stream, path) => (path === '/calm' ? stream.close(CALM) : yes(stream))

interface Peer {
  readonly bench: Bench
  /** Connections that the server got. */
  readonly sockets: Socket[]
}

/** A gate before a server, and a client's session with it. */
async function peer(server: Server): Promise<Peer> {
  const sockets: Socket[] = []
  server.on('secureConnection', (socket: Socket) => {
    sockets.push(socket)
    socket.on('error', () => undefined)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const upload = { perRequest: 1 << 30, perMinute: 1 << 30, perSession: 1 << 30 }
  const bench = await startBench(
    planOf([rule({ host: HOST, connect: { address: '127.0.0.1', port } })], { upload }),
  )
  closers.push(async () => {
    await bench.close()
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { bench, sockets }
}

function answering(answer: Answer, settings: SecureServerOptions['settings'] = {}): Server {
  const server = createSecureServer({ ...leaf, settings })
  server.on('sessionError', () => undefined)
  server.on('stream', (stream: ServerHttp2Stream, { ':path': path }: IncomingHttpHeaders) => {
    stream.on('error', () => undefined)
    answer(stream, path ?? '')
  })
  return server
}

async function client(bench: Bench): Promise<ClientHttp2Session> {
  const socket = await tlsTo(bench, HOST, { ALPNProtocols: ['h2'] })
  const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket })
  session.on('error', () => undefined)
  closers.push(() => session.destroy())
  return session
}

/** The status of a GET's answer, once all of it is there. */
function get(session: ClientHttp2Session, path = '/'): Promise<number> {
  const stream = session.request({ ':path': path })
  let status = 0
  stream.on('error', () => undefined)
  stream.on('response', (head) => {
    status = head[':status'] ?? 0
    stream.resume()
  })
  return new Promise((resolve) => stream.on('close', () => resolve(status)))
}

const times = <T>(count: number, make: () => T): T[] => Array.from({ length: count }, make)

test('a burst beyond what a server takes at once leaves its connection in use', async () => {
  const slow: Answer = (stream) => void sleep(20).then(() => yes(stream))
  const { bench, sockets } = await peer(answering(slow, { maxConcurrentStreams: 10 }))
  const session = await client(bench)
  // The server's limit is not known yet: what goes beyond it is refused.
  assert.ok((await Promise.all(times(40, () => get(session)))).includes(204))
  for (let count = 0; count < 2; count++)
    assert.deepEqual(
      await Promise.all(times(40, () => get(session))),
      times(40, () => 204),
    )
  assert.equal(sockets.length, 1)
})

test('a connection of which a server has enough takes no further request, and what it has goes on', async () => {
  const answer: Answer = (stream, path) =>
    void sleep(path === '/calm' ? 20 : 60).then(() => calm(stream, path))
  const { bench, sockets } = await peer(answering(answer, { maxConcurrentStreams: 10 }))
  const session = await client(bench)
  assert.equal(await get(session), 204)
  // 31 of them wait until others are answered.
  const refused = get(session, '/calm')
  const innocent = times(40, () => get(session))
  assert.equal(await refused, 502)
  assert.equal(await get(session), 204)
  assert.equal(sockets.length, 2)
  assert.deepEqual(
    await Promise.all(innocent),
    times(40, () => 204),
  )
  await until(() => sockets[0]?.destroyed === true)
})

test('the end of a connection leaves its successor in use', async () => {
  let finish: (() => void) | null = null
  const answer: Answer = (stream, path) => {
    if (path === '/long') stream.respond({ ':status': 200 })
    if (path === '/long') finish = () => stream.end()
    else calm(stream, path)
  }
  const { bench, sockets } = await peer(answering(answer))
  const session = await client(bench)
  const long = get(session, '/long')
  await until(() => finish !== null)
  assert.equal(await get(session, '/calm'), 502)
  assert.equal(await get(session), 204)
  finish!()
  assert.equal(await long, 200)
  await until(() => sockets[0]?.destroyed === true)
  await sleep(50)
  assert.equal(await get(session), 204)
  assert.equal(sockets.length, 2)
  // Neither is forgotten at the end.
  await bench.gate.close(0)
  await until(() => sockets.every((socket) => socket.destroyed))
})

/** What a session is asked for by, and a dialler that keeps its sockets. */
const target = { key: HOST, host: HOST, tls: true } as Target

async function poolTo(server: Server): Promise<{ pool: Http2Pool; dialled: Socket[] }> {
  await peer(server)
  const { port } = server.address() as AddressInfo
  const dialled: Socket[] = []
  const to = { host: '127.0.0.1', port, ca: testCa.cert, servername: HOST, ALPNProtocols: ['h2'] }
  const open = async (): Promise<Socket> => {
    const socket = connectTls(to)
    dialled.push(socket)
    await once(socket, 'secureConnect')
    return socket
  }
  const pool = new Http2Pool({ open } as unknown as Dialler, {} as LinkPool)
  closers.push(() => pool.close())
  return { pool, dialled }
}

/** Asks as the gate does; resolves when the session has had enough, or gone. */
async function ask(pool: Http2Pool): Promise<void> {
  const session = await pool.session(target)
  const stream = session && pool.request(session, { ':path': '/' }, true)
  stream?.on('error', () => undefined).resume()
  await until(() => session?.closed === true)
}

test('fifty requests of one turn share the connection that replaces a closed one', async () => {
  const { pool, dialled } = await poolTo(answering(yes))
  const first = await pool.session(target)
  assert.equal(await pool.session(target), first)
  first?.close()
  const next = await Promise.all(times(50, () => pool.session(target)))
  assert.equal(new Set(next).size, 1)
  assert.notEqual(next[0], first)
  assert.equal(dialled.length, 2)
})

/** A server that never closes its side of a connection. */
function lingering(answer: Answer): Server {
  const inner = createHttp2Server().on('sessionError', () => undefined)
  inner.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('error', () => undefined)
    answer(stream, '/')
  })
  return createTlsServer({ ...leaf, ALPNProtocols: ['h2'], allowHalfOpen: true }, (socket) => {
    const [near, far] = duplexPair()
    socket.on('data', (chunk) => far.write(chunk))
    far.on('data', (chunk: Buffer) => socket.writable && socket.write(chunk))
    inner.emit('connection', near)
  })
}

const LINGERING: Readonly<Record<string, Answer>> = {
  'has enough of each connection': (stream) => stream.close(CALM),
  'goes away after each answer': (stream) => {
    yes(stream)
    stream.session?.goaway()
  },
}

for (const [name, answer] of Object.entries(LINGERING))
  test(`a server that ${name} and never closes its side keeps none open`, async () => {
    const { pool, dialled } = await poolTo(lingering(answer))
    const open = (): number => dialled.filter((socket) => !socket.destroyed).length
    for (let count = 0; count < 5; count++) await ask(pool)
    assert.equal(dialled.length, 5)
    await until(() => open() === 0, 5000)
    await ask(pool)
    assert.equal(open(), 1)
    pool.close()
    assert.equal(open(), 0)
  })

test('a connection that stands only after the end is closed', async () => {
  const { pool, dialled } = await poolTo(answering(yes))
  const session = pool.session(target)
  pool.close()
  await assert.rejects(session)
  assert.equal(dialled[0]?.destroyed, true)
})
