import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, test } from 'node:test'
import { createUdpServer, type DnsResponder } from '../../src/gate/dns-server.ts'
import { parseQuery } from '../../src/gate/dns.ts'
import { carriesData, NameBook } from '../../src/gate/names.ts'
import { parseHost } from '../../src/lib/host.ts'
import { dnsQuery, readDnsAnswer } from '../fixtures/servers/dns-message.ts'
import { recordDns } from '../support/dns.ts'
import { ask, planOf, rule, startBench } from './harness.ts'

const recorder = await recordDns(0)
const asked: string[] = []
const bench = await startBench(
  planOf([rule({ host: 'api.example.com' }), rule({ host: '*.wild.example' })]),
  {
    resolve: async (name) => {
      asked.push(name)
      return []
    },
  },
)
after(async () => {
  await bench.close()
  recorder.close()
})

test('an admitted name has one address for the session, whatever its spelling', async () => {
  const first = await bench.lookup('api.example.com')
  const again = await bench.lookup('API.Example.COM')
  assert.match(first.addresses[0] ?? '', /^21\./)
  assert.deepEqual(again, first)
})

test('N-03, N-04: a refused name is answered without a query to anybody, and recorded', async () => {
  const { rcode, addresses } = await bench.lookup('secret-data.evil.invalid')
  assert.equal(rcode, 0)
  assert.match(addresses[0] ?? '', /^21\./)
  const fact = bench.of('dns.query').find((query) => query.name === 'secret-data.evil.invalid')
  assert.equal(fact?.reason, 'network.no-matching-rule')
  assert.deepEqual(asked, [])
  // Positive control: the recorder does see a query that is sent.
  await ask(recorder.port, dnsQuery('control.invalid'))
  assert.deepEqual(recorder.asked, ['control.invalid'])
})

test('AAAA, HTTPS, SRV, MX, TXT and ANY are empty answers', async () => {
  for (const type of [28, 65, 33, 15, 16, 255])
    assert.deepEqual(await bench.lookup('api.example.com', type), { rcode: 0, addresses: [] })
})

test('a service name is about its host: empty, and no refusal where the host is admitted', async () => {
  assert.deepEqual(await bench.lookup('_https._tcp.api.example.com', 33), { rcode: 0, addresses: [] })
  assert.equal(bench.of('dns.query').at(-1)?.reason, null)
  assert.deepEqual(await bench.lookup('_https._tcp.evil.invalid', 33), { rcode: 0, addresses: [] })
  assert.equal(bench.of('dns.query').at(-1)?.reason, 'network.no-matching-rule')
})

test('localhost is the session’s own', async () => {
  assert.deepEqual((await bench.lookup('localhost')).addresses, ['127.0.0.1'])
})

test('N-07: names that are no host names do not exist', async () => {
  for (const name of ['under_score.example.com', 'a b.example.com', 'sp\0t.example.com', '127.1'])
    assert.deepEqual(await bench.lookup(name), { rcode: 3, addresses: [] }, name)
})

test('answers over TCP too, several on one connection', async () => {
  const query = dnsQuery('api.example.com')
  const framed = Buffer.concat([Buffer.from([0, query.length]), query])
  const answers = await new Promise<Buffer>((resolve) => {
    const socket = connect(bench.ports.dnsTcp, '127.0.0.1')
    let bytes = Buffer.alloc(0)
    socket.on('data', (chunk) => {
      bytes = Buffer.concat([bytes, chunk])
      if (bytes.length < 2 * (2 + bytes.readUInt16BE(0))) return
      socket.destroy()
      resolve(bytes)
    })
    socket.write(framed.subarray(0, 5))
    setTimeout(() => socket.write(Buffer.concat([framed.subarray(5), framed])), 20)
  })
  assert.match(readDnsAnswer(answers.subarray(2)).addresses[0] ?? '', /^21\./)
})

test('N-05: the names under a wildcard are bounded in number and form', () => {
  const book = new NameBook(planOf([rule({ host: '*.wild.example' })]))
  const bind = (name: string): string | null => book.bind(parseHost(name) ?? assert.fail(name)).reason
  assert.equal(bind('cdn.wild.example'), null)
  assert.equal(bind(`${'deadbeef'.repeat(6)}.wild.example`), 'dns.wildcard-limit')
  assert.equal(bind('a.b.c.d.wild.example'), 'dns.wildcard-limit')
  for (let count = 1; count < 128; count++) assert.equal(bind(`n${count}.wild.example`), null)
  assert.equal(bind('one-more.wild.example'), 'dns.wildcard-limit')
  assert.equal(bind('cdn.wild.example'), null)
})

test('N-05: names of content networks pass, encoded data does not', () => {
  for (const name of ['d1a2b3c4d5e6f7', 'rr4---sn-4g5e6nsz', 'us-east-1.static', 'production-cloudfront-eu'])
    assert.ok(!carriesData(name), name)
  for (const name of ['mzxw6ytboi4dqmrqgezdgnbvgy3tqojq', 'c2VjcmV0IGRhdGEgdGhhdCBsZWF2ZXM'.toLowerCase()])
    assert.ok(carriesData(name), name)
})

test('refused names are bounded, and beyond that refused without an address', () => {
  const book = new NameBook(planOf([]))
  for (let count = 0; count < 4096; count++)
    assert.equal(book.bind(parseHost(`n${count}.invalid`) ?? assert.fail()).kind, 'refused')
  assert.equal(book.bind(parseHost('more.invalid') ?? assert.fail()).kind, 'none')
  assert.equal(book.bind(parseHost('n0.invalid') ?? assert.fail()).kind, 'refused')
})

test('malformed messages get a code or nothing, never an address', () => {
  const good = dnsQuery('api.example.com')
  const changed = (change: (bytes: Buffer) => Buffer): unknown => parseQuery(change(Buffer.from(good)))
  const set = (at: number, value: number) => (bytes: Buffer) => {
    bytes[at] = value
    return bytes
  }
  assert.ok(typeof (parseQuery(good) as { name?: string }).name === 'string')
  assert.equal(
    changed((bytes) => bytes.subarray(0, 11)),
    null,
  )
  assert.equal(changed(set(2, 0x81)), null) // an answer, not a question
  for (const change of [
    set(2, 0x28), // an update
    set(5, 2), // two questions
    set(7, 1), // an answer in a query
    set(12, 0xc0), // a compressed name
    set(12, 64), // a label too long
    (bytes: Buffer) => Buffer.concat([bytes, Buffer.from([0])]),
    (bytes: Buffer) => bytes.subarray(0, bytes.length - 1),
    (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(2000)]),
  ])
    assert.ok('rcode' in (changed(change) as object))
})

test('a lookup from port 0, which nobody can be answered at, ends nothing', () => {
  const asked: string[] = []
  const responder = { answer: () => (asked.push('asked'), Buffer.from('x')) } as unknown as DnsResponder
  const socket = createUdpServer(responder)
  const message = dnsQuery('api.example.com')
  socket.emit('message', message, { address: '127.0.0.1', family: 'IPv4', port: 0, size: message.length })
  assert.equal(asked.length, 0)
  socket.emit('message', message, { address: '127.0.0.1', family: 'IPv4', port: 9, size: message.length })
  assert.equal(asked.length, 1, 'control: others are')
  socket.close()
})
