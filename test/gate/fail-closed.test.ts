/** Records come before effects, and without records there are no effects. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { FactBody } from '../../src/audit/fact.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { type Bench, curl, planOf, rule, startBench, testCa, tlsTo, until } from './harness.ts'

const upstream = await startUpstream({ tls: testCa.issue(['api.example.com']), http2: true })
const plan = planOf([
  rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port: upstream.port } }),
])
after(() => upstream.close())

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

for (const version of ['--http1.1', '--http2']) {
  test(`A-18 ${version}: the record of a request is durable before the server sees a byte`, async () => {
    const order: string[] = []
    let release: () => void = () => undefined
    const bench = await startBench(plan, {
      record: (fact: FactBody) => {
        if (fact.k === 'http.request') order.push(`recorded ${fact.path}`)
      },
      barrier: async () => {
        order.push('barrier')
        await new Promise<void>((resolve) => (release = resolve))
        order.push('durable')
      },
    })
    const before = upstream.connections
    const answer = bench.curl('https://api.example.com/a', version, '-d', 'body')
    await until(() => order.includes('barrier'))
    await sleep(100)
    // Not even a connection: a TLS handshake would carry the name out.
    assert.equal(upstream.connections, before)
    release()
    assert.equal((await answer).status, 200)
    assert.deepEqual(order, ['recorded /a', 'barrier', 'durable'])
    assert.equal(upstream.connections, before + 1)
    await bench.close()
  })

  test(`${version}: a journal that fails closes the gate for good`, async () => {
    let failing = false
    const bench = await startBench(plan, {
      record: () => {
        if (failing) throw new Error('disk full')
      },
    })
    assert.equal((await bench.curl('https://api.example.com/', version)).status, 200)
    const before = upstream.requests.length
    failing = true
    const refused = await bench.curl('https://api.example.com/', version)
    assert.equal(refused.status, 503)
    failing = false
    assert.equal((await bench.curl('https://api.example.com/', version)).status, 503)
    assert.equal(upstream.requests.length, before)
    await bench.close()
  })
}

test('Q-01: a barrier that is slow or fails is a 503, and a late success sends nothing', async () => {
  for (const barrier of [() => sleep(600), () => Promise.reject(new Error('EIO'))]) {
    const bench = await startBench(plan, { barrier, deadlines: { barrier: 200 } })
    const before = upstream.connections
    const { status, body } = await bench.curl('https://api.example.com/')
    assert.equal(status, 503)
    assert.match(body, /gate\.unrecordable/)
    await sleep(600)
    assert.equal(upstream.connections, before)
    await bench.close()
  }
})

test('a stopped session: new requests are 503 with Retry-After, names do not resolve, and it goes on afterwards', async () => {
  const bench = await startBench(plan)
  const { addresses } = await bench.lookup('api.example.com')
  bench.state.stopped = 'frozen'
  assert.equal((await bench.lookup('api.example.com')).rcode, 2)
  bench.aim(addresses[0] ?? '', 443)
  const ask = () =>
    curl(
      '-i',
      '--cacert',
      bench.ca,
      '--connect-to',
      `::127.0.0.1:${bench.ports.tcp}`,
      'https://api.example.com/',
    )
  const before = upstream.requests.length
  const refused = await ask()
  assert.equal(refused.status, 503)
  assert.match(refused.body, /retry-after: 5/i)
  bench.state.stopped = null
  bench.gate.pause('frozen')
  assert.equal((await ask()).status, 503)
  assert.equal(upstream.requests.length, before)
  bench.gate.resume()
  assert.equal((await ask()).status, 200)
  await bench.close()
})

/** A connection through the gate on which an upload has begun: five of its ten bytes have reached the upstream. */
async function beginUpload(bench: Bench) {
  const socket = await tlsTo(bench, 'api.example.com')
  socket.on('error', () => undefined)
  socket.write('POST /echo HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 10\r\n\r\nfirst')
  const before = upstream.requests.length
  await until(() => upstream.requests.length === before + 1)
  return socket
}

test('a pause holds an upload under way, and resuming lets it finish', async () => {
  const slow = await startBench(plan)
  const socket = await beginUpload(slow)
  let answer = ''
  socket.on('data', (bytes: Buffer) => (answer += bytes.toString()))
  await sleep(50)
  slow.gate.pause('frozen')
  const bytes = upstream.bytes()
  socket.write('later')
  await sleep(200)
  assert.equal(upstream.bytes(), bytes)
  slow.gate.resume()
  await until(() => answer.includes('"bytes":10'))
  socket.destroy()
  await slow.close()
})

test('Q-08: closing cuts what does not end in time, and nothing is accepted any more', async () => {
  const bench = await startBench(plan)
  const socket = await beginUpload(bench)
  const closed = new Promise((resolve) => socket.resume().once('close', resolve))
  const started = performance.now()
  await bench.gate.close(200)
  await closed
  assert.ok(performance.now() - started < 2000)
  assert.equal((await bench.curl('https://api.example.com/').catch(() => ({ status: 0 }))).status, 0)
})
