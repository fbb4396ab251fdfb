/** `inspect: false`: TLS passes unopened, after its name and the server's certificate were checked. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { after, test } from 'node:test'
import { createTestCa } from '../fixtures/servers/certificates.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { planOf, rule, startBench, testCa, until } from './harness.ts'

const good = await startUpstream({ tls: testCa.issue(['pinned.example.com']) })
const wrongName = await startUpstream({ tls: testCa.issue(['another.example.com']) })
const wrongRoot = await startUpstream({ tls: createTestCa('Rogue').issue(['rogue.example.com']) })
const expired = await startUpstream({ tls: testCa.issue(['expired.example.com'], -1) })
const at = (port: number) => ({ address: '127.0.0.1', port })
const plan = planOf(
  [
    rule({ host: 'pinned.example.com', inspect: false, connect: at(good.port) }),
    rule({ host: 'wrong.example.com', inspect: false, connect: at(wrongName.port) }),
    rule({ host: 'rogue.example.com', inspect: false, connect: at(wrongRoot.port) }),
    rule({ host: 'expired.example.com', inspect: false, connect: at(expired.port) }),
    rule({ host: 'inspected-wrong.example.com', connect: at(wrongName.port) }),
    rule({ host: 'inspected-expired.example.com', connect: at(expired.port) }),
  ],
  { upload: { perRequest: 100_000, perMinute: 1 << 30, perSession: 1 << 30 } },
)
const bench = await startBench(plan)
/** The server's own root: the client sees the server's certificate, not ours. */
const root = `${bench.ca}.upstream`
writeFileSync(root, testCa.cert)
after(async () => {
  await bench.close()
  await Promise.all([good, wrongName, wrongRoot, expired].map((server) => server.close()))
})

test('the client sees the server’s own certificate, and the record has its facts and bytes', async () => {
  const { status } = await bench.curl('https://pinned.example.com/echo', '--cacert', root)
  assert.equal(status, 200)
  const open = bench.of('net.open').at(-1)
  assert.equal(open?.tls?.subject, 'CN=pinned.example.com')
  await until(() => bench.of('net.close').length === 1)
  assert.ok((bench.of('net.close')[0]?.bytesOut ?? 0) > 300)
  assert.equal(bench.of('http.request').at(-1)?.method, 'CONNECT')
})

test('a second connection needs no second look at the certificate', async () => {
  const before = good.connections
  assert.equal((await bench.curl('https://pinned.example.com/echo', '--cacert', root)).status, 200)
  assert.equal(good.connections, before + 1)
})

for (const host of ['wrong.example.com', 'rogue.example.com', 'expired.example.com'])
  test(`a server without a valid certificate gets nothing of the client: ${host}`, async () => {
    const requests = [wrongName, wrongRoot, expired].map((server) => server.requests.length)
    const { status } = await bench.curl(`https://${host}/`, '-k')
    assert.equal(status, 0)
    assert.equal(bench.of('net.denied').at(-1)?.reason, 'upstream.certificate')
    assert.deepEqual(
      [wrongName, wrongRoot, expired].map((server) => server.requests.length),
      requests,
    )
  })

for (const host of ['inspected-wrong.example.com', 'inspected-expired.example.com'])
  test(`and with inspection the client reads why: ${host}`, async () => {
    const { status, body } = await bench.curl(`https://${host}/`)
    assert.equal(status, 502)
    assert.match(body, /upstream\.certificate/)
  })

test('N-20: the server name must be the name that was looked up', async () => {
  const { addresses } = await bench.lookup('pinned.example.com')
  bench.aim(addresses[0] ?? '', 443)
  const before = good.connections
  const { curl } = await import('./harness.ts')
  const { status } = await curl(
    '--cacert',
    bench.ca,
    '--connect-to',
    `::127.0.0.1:${bench.ports.tcp}`,
    'https://fronted.example.com/',
  )
  assert.equal(status, 421)
  assert.equal(good.connections, before)
})

test('Q-04: a client that has said all still gets its answer, and both sides are freed', async () => {
  const { createServer: createTlsServer, connect } = await import('node:tls')
  const certificate = testCa.issue(['half.example.com'])
  const server = createTlsServer({ ...certificate, allowHalfOpen: true }, (socket) => {
    let heard = ''
    socket.on('error', () => undefined)
    socket.on('data', (bytes: Buffer) => (heard += bytes.toString()))
    socket.on('end', () => setTimeout(() => socket.end(`heard ${heard}`), 50))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  const half = await startBench(
    planOf([rule({ host: 'half.example.com', inspect: false, connect: at(port) })]),
  )
  half.aim((await half.lookup('half.example.com')).addresses[0] ?? '', 443)
  const client = connect({
    host: '127.0.0.1',
    port: half.ports.tcp,
    servername: 'half.example.com',
    ca: testCa.cert,
  })
  client.allowHalfOpen = true
  let answer = ''
  client.on('data', (bytes: Buffer) => (answer += bytes.toString()))
  client.end('all I have')
  await new Promise((resolve) => client.once('close', resolve))
  assert.equal(answer, 'heard all I have')
  await until(() => half.of('net.close').length === 1)
  await half.close()
  server.close()
})

test('X-08: bytes of the tunnel count, and the limit cuts it', async () => {
  const body = `${bench.ca}.body`
  writeFileSync(body, Buffer.alloc(500_000))
  await bench.curl('https://pinned.example.com/echo', '--cacert', root, '-H', 'Expect:', '-T', body)
  await until(() => bench.of('net.denied').at(-1)?.reason === 'upload.per-request')
  assert.equal(good.requests.at(-1)?.body, null)
})
