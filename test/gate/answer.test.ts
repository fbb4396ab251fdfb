/** Answers that go from a server to a client without JavaScript: the same bytes and records as those that come through it. */
import assert from 'node:assert/strict'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { createServer as createTlsServer } from 'node:tls'
import { WireSocket } from '../../src/gate/wire.ts'
import { type Bench, planOf, rawTls, rule, startBench, testCa } from './harness.ts'

const HOST = 'api.example.com'
const closers: (() => unknown)[] = []
after(() => Promise.all(closers.map((close) => close())))

const answer = (fields: string, body = 'hello'): string =>
  `HTTP/1.1 200 OK\r\n${fields}Content-Length: ${body.length}\r\n\r\n${body}`

/** Answers that can be passed on as they lie there. */
const USUAL: Readonly<Record<string, string>> = {
  plain: answer(''),
  'no body': answer('', ''),
  'another case': answer('content-TYPE: text/plain\r\nX-Y:z\r\nX-Z:   z \t\r\nX-Empty:\r\n'),
  'text beyond ASCII': answer('X-Name: caf\xe9\r\n'),
  'fields of the hop': answer('Keep-Alive: timeout=5\r\nTE: x\r\nProxy-Authenticate: Basic\r\nX: y\r\n'),
  'ways round the gate': answer('Alt-Svc: h3=":443"\r\nAlternate-Protocol: 443:quic\r\nX: y\r\n'),
  'cookies, twice': answer('Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n'),
  'own words for its status': answer('').replace('200 OK', '200 Sure, why not'),
  'no words for its status': answer('').replace('200 OK', '200 '),
  'not found': answer('').replace('200 OK', '404 Not Found'),
  'part of a body': answer('Content-Range: bytes 0-4/9\r\n').replace('200 OK', '206 Partial Content'),
  'a body like a head': answer('', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'),
}

/** All others are llhttp's, whatever it makes of them. */
const UNUSUAL: Readonly<Record<string, string>> = {
  'in chunks': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
  'both lengths': answer('Transfer-Encoding: chunked\r\n'),
  'two lengths': answer('Content-Length: 5\r\n'),
  'lengths that differ': answer('Content-Length: 6\r\n'),
  'a length with a sign': answer('').replace(': 5', ': +5'),
  'a length in two lists': answer('').replace(': 5', ': 5, 5'),
  'more than it said': `${answer('')}!`,
  'another answer behind it': answer('') + answer(''),
  'a folded field': answer('X-A: b\r\n c\r\n'),
  'a bare line feed': answer('X-A: b\nX-B: c\r\n'),
  'a lone carriage return': answer('X-A: b\rX-B: c\r\n'),
  'space before the colon': answer('X-A : b\r\n'),
  'a NUL': answer('X-A: b\0c\r\n'),
  'a name that is none': answer('X A: b\r\n'),
  'no name': answer(': b\r\n'),
  'an empty line first': `\r\n${answer('')}`,
  'HTTP/1.0': answer('').replace('HTTP/1.1', 'HTTP/1.0'),
  'HTTP/1.2': answer('').replace('HTTP/1.1', 'HTTP/1.2'),
  'a status of two digits': answer('').replace('200', '99'),
  'a status nobody has words for': answer('').replace('200 OK', '299 Hm'),
  'no content': 'HTTP/1.1 204 No Content\r\n\r\n',
  'no content, with a length': answer('').replace('200 OK', '204 No Content'),
  'not modified': 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n',
  'an interim one first': `HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n${answer('')}`,
  'the last one': answer('Connection: close\r\n'),
  'the last one, by another name': answer('Proxy-Connection: close\r\n'),
  'an upgrade': answer('Upgrade: h2c\r\nConnection: upgrade\r\n'),
  'until the end': 'HTTP/1.1 200 OK\r\n\r\nhello',
  'more fields than usual': answer('X-A: b\r\n'.repeat(100)),
}

const ALL = { ...USUAL, ...UNUSUAL }

/** A gate in front of a server that answers `/NAME` with that answer, in one piece. */
async function gate(wire: boolean): Promise<Bench> {
  const server = createTlsServer({ ...testCa.issue([HOST]), ALPNProtocols: ['http/1.1'] }, (socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => {
      const name = decodeURIComponent(/^GET \/(\S*)/.exec(bytes.toString('latin1'))?.[1] ?? '')
      socket.write(Object.hasOwn(ALL, name) ? (ALL[name] ?? '') : answer(''), 'latin1')
      if (name === 'until the end') socket.end()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const bench = await startBench(planOf([rule({ host: HOST, connect: { address: '127.0.0.1', port } })]), {
    wire,
    deadlines: { idle: 1000, response: 1000 },
  })
  closers.push(
    () => bench.close(),
    () => server.close(),
  )
  // A server's first connection is Node's; a native one takes its place.
  for (let count = 0; count < 6; count++) await ask(bench, '')
  return bench
}

const ask = (bench: Bench, name: string): Promise<string> =>
  rawTls(bench, HOST, `GET /${encodeURIComponent(name)} HTTP/1.1\r\nHost: ${HOST}\r\n\r\n`, 60)

/** What the client read, and what was recorded of it. */
async function seen(bench: Bench, name: string): Promise<unknown> {
  const before = bench.of('http.response').length
  const text = await ask(bench, name)
  const recorded = bench.of('http.response').slice(before)
  return { text, recorded: recorded.map(({ status, bytesIn, bytesOut }) => ({ status, bytesIn, bytesOut })) }
}

test('an answer that is passed on natively is the one that JavaScript would have sent, and so is its record', async (t) => {
  const native = await gate(true)
  const node = await gate(false)
  const { mock } = t.mock.method(WireSocket.prototype, 'passAnswer')
  const passed = (): number => mock.calls.filter(({ result }) => result).length
  for (const name of Object.keys(ALL)) {
    const before = passed()
    const found = await seen(native, name)
    assert.equal(passed() - before, name in USUAL ? 1 : 0, `${name}: which way it went`)
    assert.deepEqual(found, await seen(node, name), name)
  }
})
