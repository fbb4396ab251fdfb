/** PORT/tcp: anything passes, to the pinned address only, under label, budget and stop, and on record first. */
import assert from 'node:assert/strict'
import { connect as connectTcp, createServer, type AddressInfo, type Socket } from 'node:net'
import { after, test } from 'node:test'
import { planOf, rawTcp, rule, startBench, until } from './harness.ts'

const received: string[] = []
let connections = 0
const open = new Set<Socket>()
/** Speaks first, as MySQL does, and says back what it hears. */
const server = createServer((socket) => {
  connections++
  open.add(socket)
  socket.on('close', () => open.delete(socket))
  socket.on('error', () => socket.destroy())
  socket.write('welcome\n')
  socket.on('data', (bytes) => {
    received.push(bytes.toString('latin1'))
    socket.write(bytes)
  })
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const pin = { address: '127.0.0.1', port: (server.address() as AddressInfo).port }
const raw = (host: string, port: number, connect = pin, more = {}) =>
  rule({ host, ports: [port], raw: true, inspect: false, ca: null, connect, ...more })

let durable = async (): Promise<void> => undefined
let asked = 0
const bench = await startBench(
  planOf(
    [
      raw('db.example.com', 5432),
      raw('down.example.com', 5432, { address: '127.0.0.1', port: 1 }),
      raw('low.example.com', 6379, pin, { clearance: 'public' }),
    ],
    { upload: { perRequest: 1000, perMinute: 1 << 30, perSession: 1 << 30 } },
  ),
  {
    barrier: async () => durable(),
    resolve: async () => {
      asked++
      return ['93.184.216.34']
    },
  },
)
after(async () => {
  await bench.close()
  server.close()
})

async function to(host: string, port: number): Promise<number> {
  bench.aim((await bench.lookup(host)).addresses[0] ?? host, port)
  return bench.ports.tcp
}

/** A PostgreSQL start-up packet, and one that asks for TLS first. */
const STARTUP = Buffer.from([0, 0, 0, 8, 0, 3, 0, 0])
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])

test('the server may speak first, bytes pass as they are, and no resolver is asked', async () => {
  const answer = await rawTcp(await to('db.example.com', 5432), SSL_REQUEST)
  assert.equal(answer, `welcome\n${SSL_REQUEST.toString('latin1')}`)
  assert.equal(asked, 0)
  const open = bench.of('net.open').at(-1)
  assert.deepEqual([open?.address, open?.port, open?.tls], [pin.address, pin.port, null])
  await until(() => bench.of('net.close').length === 1)
  assert.equal(bench.of('net.close')[0]?.bytesOut, SSL_REQUEST.length)
  assert.equal(bench.of('http.request').at(-1)?.method, 'CONNECT')
})

test('nothing is dialled before the record is durable', async () => {
  const before = connections
  durable = async () => Promise.reject(new Error('the disk is full'))
  const answer = await rawTcp(await to('db.example.com', 5432), STARTUP)
  durable = async () => undefined
  assert.match(answer, /Not sent by Ambit: The request could not be recorded/)
  assert.equal(connections, before)
})

test('a client that is gone before its tunnel is made leaves no connection to the server', async () => {
  await until(() => open.size === 0)
  const [before, closed] = [connections, bench.of('net.close').length]
  let release = (): void => undefined
  let waits = false
  durable = async () => {
    waits = true
    await new Promise<void>((resolve) => (release = resolve))
  }
  const client = connectTcp({ host: '127.0.0.1', port: await to('db.example.com', 5432) })
  client.on('error', () => undefined)
  await until(() => waits)
  client.resetAndDestroy()
  await new Promise((resolve) => setTimeout(resolve, 100))
  durable = async () => undefined
  release()
  await until(() => connections === before + 1 && bench.of('net.close').length === closed + 1)
  await until(() => open.size === 0)
  const control = await talker(await to('db.example.com', 5432))
  await until(() => control.said.includes('welcome'))
  assert.equal(open.size, 1, 'control: one that stays has its connection')
  control.destroy()
})

test('a label above the clearance is refused in the words of the protocol', async () => {
  const before = connections
  bench.state.label = 'confidential'
  const answer = await rawTcp(await to('low.example.com', 6379), '*1\r\n$4\r\nPING\r\n')
  bench.state.label = 'public'
  assert.match(answer, /^-ERR Refused by Ambit: This session has read data with a higher label than low\./)
  assert.equal(bench.of('net.denied').at(-1)?.reason, 'network.clearance-exceeded')
  assert.equal(connections, before)
  const control = await rawTcp(await to('low.example.com', 6379), '*1\r\n$4\r\nPING\r\n')
  assert.match(control, /^welcome\n\*1/)
})

test('a label that rises while the connection stands cuts it', async () => {
  const socket = await talker(await to('low.example.com', 6379))
  await until(() => socket.said.includes('welcome'))
  bench.state.label = 'confidential'
  const before = received.length
  socket.write('the secret')
  await until(() => socket.closed)
  bench.state.label = 'public'
  assert.equal(received.length, before)
})

test('a stopped session sends nothing; what was held goes on when it is resumed', async () => {
  const socket = await talker(await to('db.example.com', 5432))
  await until(() => socket.said.includes('welcome'))
  bench.gate.pause('frozen')
  socket.write('held')
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert.ok(!received.includes('held'))
  bench.gate.resume()
  await until(() => received.includes('held'))
  socket.destroy()
})

test('more than the budget does not leave', async () => {
  const socket = await talker(await to('db.example.com', 5432))
  await until(() => socket.said.includes('welcome'))
  socket.write('x'.repeat(2000))
  await until(() => socket.closed)
  assert.ok(!received.some((text) => text.includes('xxx')))
  assert.equal(bench.of('net.denied').at(-1)?.reason, 'upload.per-request')
})

test('a database that is down says so in its own words', async () => {
  const answer = await rawTcp(await to('down.example.com', 5432), STARTUP)
  assert.match(answer, /FATAL.*Not sent by Ambit: down\.example\.com could not be reached/s)
  assert.equal(bench.of('net.denied').at(-1)?.reason, 'upstream.unreachable')
})

test('the rule is for its port and host only, and not for requests by the proxy', async () => {
  const before = connections
  assert.match(await rawTcp(await to('db.example.com', 5433), STARTUP), /PostgreSQL passes to a host/)
  assert.equal(await rawTcp(await to('other.example.com', 5432), '\x01\x02\x03\x04'), '')
  const request = 'GET http://db.example.com:5432/ HTTP/1.1\r\nhost: db.example.com:5432\r\n\r\n'
  assert.match(await rawTcp(bench.ports.proxy, request), /^HTTP\/1\.1 403 .*network\.raw-only/s)
  assert.equal(connections, before)
  const tunnel = 'CONNECT db.example.com:5432 HTTP/1.1\r\nhost: db.example.com:5432\r\n\r\n'
  assert.match(await rawTcp(bench.ports.proxy, tunnel), /^HTTP\/1\.1 200[^]*welcome\n/)
})

interface Talker extends Socket {
  said: string
}

async function talker(port: number): Promise<Talker> {
  const socket = Object.assign(connectTcp({ host: '127.0.0.1', port }), { said: '' })
  socket.on('error', () => undefined)
  socket.on('data', (bytes: Buffer) => (socket.said += bytes.toString('latin1')))
  await new Promise((resolve) => socket.once('connect', resolve))
  return socket
}
