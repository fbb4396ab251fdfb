/** Servers that lie, hang or break, and names that lead where they should not. */
import assert from 'node:assert/strict'
import { constants, createSecureServer } from 'node:http2'
import { createServer, type Server, type Socket } from 'node:net'
import { after, test } from 'node:test'
import { createServer as createTlsServer } from 'node:tls'
import { vetAddresses } from '../../src/gate/upstream.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { planOf, rawTcp, rule, startBench, testCa, until } from './harness.ts'

const certificate = testCa.issue(['api.example.com'])
const closers: (() => unknown)[] = []
after(() => Promise.all(closers.map((close) => close())))

/** A TLS server that answers with whatever `speak` writes. */
async function liar(speak: (socket: Socket) => void): Promise<number> {
  const server: Server = createTlsServer(certificate, (socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => speak(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => server.close())
  return (server.address() as { port: number }).port
}

const short = { connect: 400, response: 400, idle: 400, head: 400, resolve: 300 }
/** Where a deadline must not answer in the server's place: a busy machine takes its time for a handshake. */
const patient = { connect: 20_000, response: 20_000, idle: 20_000, head: 20_000, resolve: 20_000 }

async function askLiar(port: number, deadlines: Partial<typeof short>, ...args: string[]) {
  const plan = planOf([rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port } })])
  const bench = await startBench(plan, { deadlines: { ...patient, ...deadlines } })
  const answer = await bench.curl('https://api.example.com/', ...args)
  await until(() => bench.of('http.request').length === bench.of('http.response').length)
  await bench.close()
  return answer
}

const LIES: Readonly<Record<string, readonly [(socket: Socket) => void, number]>> = {
  'resets at once': [(socket) => socket.destroy(), 502],
  'says nothing': [() => undefined, 504],
  'is no HTTP': [(socket) => socket.write('SSH-2.0-x\r\n'), 502],
  'sends half a head': [(socket) => socket.end('HTTP/1.1 200 OK\r\nA: b'), 502],
  'sends a head without end': [
    (socket) => void setInterval(() => socket.write(`A${'a'.repeat(9999)}: b\r\n`), 1).unref(),
    502,
  ],
  'floods with interim answers': [
    (socket) => socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(50)),
    502,
  ],
  'switches protocols unasked': [
    (socket) => socket.write('HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'),
    502,
  ],
  'gives two lengths': [
    (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'),
    502,
  ],
  'gives length and chunked': [
    (socket) =>
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'),
    502,
  ],
}

for (const [name, [speak, expected]] of Object.entries(LIES))
  for (const version of ['--http1.1', '--http2'])
    test(`Q-05 ${version}: a server that ${name} is ${expected}`, async () => {
      const deadlines = expected === 504 ? { response: short.response } : {}
      const { status, body } = await askLiar(await liar(speak), deadlines, version)
      assert.equal(status, expected)
      assert.match(body, /upstream\./)
    })

for (const version of ['--http1.1', '--http2'])
  test(`Q-05 ${version}: a body shorter than announced is seen to be short`, async () => {
    const cut = await liar((socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort'))
    assert.notEqual((await askLiar(cut, {}, version)).code, 0)
    const chunked = await liar((socket) =>
      socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n'),
    )
    assert.notEqual((await askLiar(chunked, {}, version)).code, 0)
    // Positive control: a whole one is whole.
    const whole = await liar((socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole'))
    assert.deepEqual((({ code, body }) => ({ code, body }))(await askLiar(whole, {}, version)), {
      code: 0,
      body: 'whole',
    })
  })

test('Q-05: a body longer than announced ends where it was announced, and spoils no later answer', async () => {
  let count = 0
  const port = await liar((socket) =>
    socket.write(
      `HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n${++count}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil`,
    ),
  )
  const plan = planOf([rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port } })])
  const bench = await startBench(plan, { deadlines: patient })
  for (const expected of ['1', '2', '3'])
    assert.equal((await bench.curl('https://api.example.com/', '--http1.1')).body, expected)
  await bench.close()
})

test('Q-05 --http2: a server that refuses every further stream of a connection is asked on another', async () => {
  let connections = 0
  const server = createSecureServer(certificate)
  server.on('session', (session) => {
    connections++
    let count = 0
    session.on('stream', (stream) => {
      if (++count === 1) return stream.respond({ ':status': 204 }, { endStream: true })
      stream.on('error', () => undefined)
      stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => server.close())
  const { port } = server.address() as { port: number }
  const plan = planOf([rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port } })])
  const bench = await startBench(plan, { deadlines: patient })
  const statuses: number[] = []
  for (let count = 0; count < 5; count++)
    statuses.push((await bench.curl('https://api.example.com/', '--http2')).status)
  assert.deepEqual(statuses, [204, 502, 204, 502, 204])
  assert.equal(connections, 3)
  await bench.close()
})

test('Q-05: a server that hangs in its answer is given up, and the client sees it', async () => {
  const port = await liar((socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc'))
  assert.notEqual((await askLiar(port, { idle: short.idle })).code, 0)
})

test('Q-05: a refused and a hanging connection', async () => {
  assert.equal((await askLiar(1, {})).status, 502)
  const silent = createServer(() => undefined)
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  closers.push(() => silent.close())
  const { port } = silent.address() as { port: number }
  assert.equal((await askLiar(port, { connect: short.connect })).status, 504)
})

test('N-18: an admitted name that leads to a private address is refused, and nothing is dialled', async () => {
  const upstream = await startUpstream({ tls: certificate })
  closers.push(() => upstream.close())
  for (const addresses of [
    ['127.0.0.1'],
    ['169.254.169.254'],
    ['10.0.0.1', '::ffff:127.0.0.1'],
    ['fd00:ec2::254'],
  ]) {
    const plan = planOf([rule({ host: 'api.example.com', ports: [upstream.port] })])
    const bench = await startBench(plan, { resolve: async () => addresses })
    const { status, body } = await bench.curl(`https://api.example.com:${upstream.port}/`)
    assert.equal(status, 403)
    assert.match(body, /upstream\.address-forbidden/)
    assert.equal(upstream.connections, 0)
    await bench.close()
  }
  // Positive control: `connect` is the way to such an address.
  const pinned = planOf([
    rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port: upstream.port } }),
  ])
  const bench = await startBench(pinned)
  assert.equal((await bench.curl('https://api.example.com/')).status, 200)
  await bench.close()
})

test('N-17: a loopback address that a rule names still needs `connect`', async () => {
  const bench = await startBench(planOf([rule({ host: '127.0.0.1' })]))
  bench.aim('127.0.0.1', 443)
  const { body } = await bench.curl('https://127.0.0.1/')
  assert.match(body, /upstream\.address-forbidden/)
  await bench.close()
})

test('N-19: of mixed answers only public ones are dialled, and a name is resolved once', async () => {
  const own = new Set(['8.8.4.4'])
  const mixed = ['10.0.0.1', '2606:4700::1111', '8.8.8.8', '127.0.0.1', '8.8.4.4', '::1']
  assert.deepEqual(vetAddresses(mixed, own), ['8.8.8.8', '2606:4700::1111'])
  let asked = 0
  const bench = await startBench(planOf([rule({ host: 'api.example.com' })]), {
    resolve: async () => {
      asked++
      // Public to a first look, private to a second.
      return asked === 1 ? ['127.0.0.1'] : ['8.8.8.8']
    },
  })
  assert.equal((await bench.curl('https://api.example.com/')).status, 403)
  assert.equal(asked, 1)
  await bench.close()
})

test('Q-12: a resolver that is slow, fails or knows nothing is 502', async () => {
  for (const resolve of [
    () => new Promise<string[]>(() => undefined),
    () => Promise.reject(new Error('SERVFAIL')),
    () => Promise.resolve([]),
  ]) {
    const deadlines = { ...patient, resolve: short.resolve }
    const bench = await startBench(planOf([rule({ host: 'api.example.com' })]), { resolve, deadlines })
    const { status, body } = await bench.curl('https://api.example.com/')
    assert.equal(status, 502)
    assert.match(body, /upstream\.unresolvable/)
    await bench.close()
  }
})

test('Q-03: a client that dawdles with its hello or its head is cut off', async () => {
  const plan = planOf([rule({ host: 'api.example.com' })])
  const bench = await startBench(plan, { deadlines: short })
  bench.aim((await bench.lookup('api.example.com')).addresses[0] ?? '', 443)
  for (const bytes of [
    '',
    '\x16\x03\x01',
    'GET / HT',
    'GET / HTTP/1.1\r\nHost: api.example.com\r\nX-Slow: ',
  ]) {
    const started = performance.now()
    await rawTcp(bench.ports.tcp, bytes, 5000)
    assert.ok(performance.now() - started < 2500, JSON.stringify(bytes))
  }
  await bench.close()
})

test('kept connections are shared within a rule’s host, and a server that closed one does no harm', async () => {
  const upstream = await startUpstream({ tls: testCa.issue(['api.example.com', 'b.example.com']) })
  const connect = { address: '127.0.0.1', port: upstream.port }
  const bench = await startBench(
    planOf([rule({ host: 'api.example.com', connect }), rule({ host: 'b.example.com', connect })]),
  )
  for (let count = 0; count < 3; count++)
    assert.equal((await bench.curl('https://api.example.com/')).status, 200)
  assert.equal(upstream.connections, 1)
  assert.equal((await bench.curl('https://b.example.com/')).status, 200)
  assert.equal(upstream.connections, 2)
  await bench.close()
  await upstream.close()
})

test('NODE_TLS_REJECT_UNAUTHORIZED in the caller’s environment weakens nothing', async () => {
  const server = await startUpstream({ tls: testCa.issue(['other.example.com']) })
  const plan = planOf([
    rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port: server.port } }),
  ])
  const bench = await startBench(plan)
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
  try {
    const { status, body } = await bench.curl('https://api.example.com/')
    assert.equal(status, 502)
    assert.match(body, /upstream\.certificate/)
    assert.equal(server.requests.length, 0)
  } finally {
    delete process.env.NODE_TLS_REJECT_UNAUTHORIZED
    await bench.close()
    await server.close()
  }
})
