/** N-28, N-29: requests that two parsers could read as different messages never reach a server. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { planOf, rawTls, rule, startBench, testCa } from './harness.ts'

const upstream = await startUpstream({ tls: testCa.issue(['api.example.com']) })
const bench = await startBench(
  planOf([rule({ host: 'api.example.com', connect: { address: '127.0.0.1', port: upstream.port } })]),
)
after(async () => {
  await bench.close()
  await upstream.close()
})

const post = (headers: string, body = ''): string =>
  `POST /echo HTTP/1.1\r\nHost: api.example.com\r\n${headers}\r\n${body}`

test('positive control: well-formed bodies of both kinds pass', async () => {
  for (const request of [
    post('Content-Length: 5\r\n', 'hello'),
    post('Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n0\r\n\r\n'),
    post('Transfer-Encoding: chunked\r\n', '5;ext=1\r\nhello\r\n0\r\n\r\n'),
  ]) {
    const answer = await rawTls(bench, 'api.example.com', request)
    assert.match(answer, /^HTTP\/1\.1 200/)
    assert.match(answer, /"bytes":5/)
  }
})

const REFUSED: Readonly<Record<string, string>> = {
  'length and chunked together': post('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'),
  'two different lengths': post('Content-Length: 5\r\nContent-Length: 6\r\n', 'hello!'),
  'two equal lengths': post('Content-Length: 5\r\nContent-Length: 5\r\n', 'hello'),
  'a list of lengths': post('Content-Length: 5, 5\r\n', 'hello'),
  'a length with a plus': post('Content-Length: +5\r\n', 'hello'),
  'a length in hex': post('Content-Length: 0x5\r\n', 'hello'),
  'a length with a space inside': post('Content-Length: 5 5\r\n', 'hello'),
  'a negative length': post('Content-Length: -1\r\n', ''),
  'a huge length': post('Content-Length: 99999999999999999999\r\n', ''),
  'chunked that is not last': post('Transfer-Encoding: chunked, gzip\r\n', '0\r\n\r\n'),
  'another coding before chunked': post('Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n'),
  'chunked twice': post('Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'),
  'an unknown coding': post('Transfer-Encoding: xchunked\r\n', '0\r\n\r\n'),
  'a coding in another case with rubbish': post('Transfer-Encoding: \x0bchunked\r\n', '0\r\n\r\n'),
  'a space before the colon': post('Transfer-Encoding : chunked\r\n', '0\r\n\r\n'),
  'a folded header': post('X-A: 1\r\n folded\r\nContent-Length: 0\r\n'),
  'a folded length': post('Content-Length:\r\n 5\r\n', 'hello'),
  'bare line feeds': post('Content-Length: 0\r\n').replaceAll('\r\n', '\n'),
  'one bare line feed': post('X-A: 1\nContent-Length: 0\r\n'),
  'a carriage return in a value': post('X-A: 1\rX-B: 2\r\nContent-Length: 0\r\n'),
  'a NUL in a value': post('X-A: 1\x002\r\nContent-Length: 0\r\n'),
  'an empty header name': post(': 1\r\nContent-Length: 0\r\n'),
  'HTTP/2.0 in a request line': post('Content-Length: 0\r\n').replace('HTTP/1.1', 'HTTP/2.0'),
  'HTTP/0.9': post('Content-Length: 0\r\n').replace('HTTP/1.1', 'HTTP/0.9'),
  'no Host': 'GET / HTTP/1.1\r\n\r\n',
  'two Hosts': 'GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.invalid\r\n\r\n',
  'Host with userinfo': 'GET / HTTP/1.1\r\nHost: api.example.com@evil.invalid\r\n\r\n',
  'absolute form': 'GET https://evil.invalid/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n',
  'asterisk form': 'OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n\r\n',
  'a fragment in the target': 'GET /a#b HTTP/1.1\r\nHost: api.example.com\r\n\r\n',
  'bytes beyond ASCII in the target': 'GET /\xe4 HTTP/1.1\r\nHost: api.example.com\r\n\r\n',
  'CONNECT inside': 'CONNECT evil.invalid:443 HTTP/1.1\r\nHost: evil.invalid:443\r\n\r\n',
  'Connection that names the length': post('Connection: content-length\r\nContent-Length: 5\r\n', 'hello'),
  'HTTP/0.9 without a version': 'GET /\r\n\r\n',
  'an unknown version': 'GET / HTTP/3.7\r\nHost: api.example.com\r\n\r\n',
  'N-29 192 headers': `GET / HTTP/1.1\r\nHost: api.example.com\r\n${'X-A: 1\r\n'.repeat(191)}\r\n`,
  'N-29 a head of more than 64 KiB': `GET / HTTP/1.1\r\nHost: api.example.com\r\nX-A: ${'a'.repeat(70_000)}\r\n\r\n`,
}

for (const [name, request] of Object.entries(REFUSED))
  test(`refuses ${name}, and the server sees nothing of it`, async () => {
    const before = { requests: upstream.requests.length, bytes: upstream.bytes() }
    const answer = await rawTls(bench, 'api.example.com', Buffer.from(request, 'latin1'), 200)
    assert.match(answer, /^HTTP\/1\.1 4\d\d /)
    assert.match(answer, /application\/problem\+json/)
    assert.equal(answer.match(/^HTTP\/1\.1 /gm)?.length, 1, 'one answer')
    assert.deepEqual({ requests: upstream.requests.length, bytes: upstream.bytes() }, before)
  })

/** The head may pass; the body must not become something else on its way. */
const BROKEN_BODIES: Readonly<Record<string, string>> = {
  'a chunk size with a plus': '+5\r\nhello\r\n0\r\n\r\n',
  'a chunk size in 0x': '0x5\r\nhello\r\n0\r\n\r\n',
  'a chunk size too large': 'fffffffffffffffff\r\nhello\r\n0\r\n\r\n',
  'a line feed in a chunk extension': '5;a\nb\r\nhello\r\n0\r\n\r\n',
  'a bare line feed after a size': '5\nhello\r\n0\r\n\r\n',
  'chunk data longer than its size': '5\r\nhelloworld\r\n0\r\n\r\n',
  'an endless chunk extension': `5;${'a'.repeat(70_000)}\r\nhello\r\n0\r\n\r\n`,
}

for (const [name, body] of Object.entries(BROKEN_BODIES))
  test(`never completes a body with ${name}`, async () => {
    const before = upstream.requests.length
    await rawTls(bench, 'api.example.com', post('Transfer-Encoding: chunked\r\n', body), 200)
    const arrived = upstream.requests.slice(before)
    assert.ok(arrived.every((request) => request.body === null))
  })

test('N-28: a second request behind the first is decided on its own', async () => {
  const smuggled = 'GET /second HTTP/1.1\r\nHost: evil.invalid\r\n\r\n'
  const before = upstream.requests.length
  const answer = await rawTls(
    bench,
    'api.example.com',
    post('Content-Length: 5\r\n', `hello${smuggled}`),
    3000,
  )
  assert.match(answer, /^HTTP\/1\.1 200[^]*HTTP\/1\.1 421 /)
  assert.deepEqual(
    upstream.requests.slice(before).map((request) => request.url),
    ['/echo'],
  )
})

test('request trailers are not passed on', async () => {
  const body = '5\r\nhello\r\n0\r\nX-Secret: data\r\n\r\n'
  const answer = await rawTls(
    bench,
    'api.example.com',
    post('Trailer: X-Secret\r\nTransfer-Encoding: chunked\r\n', body),
  )
  assert.match(answer, /"bytes":5/)
  assert.doesNotMatch(answer, /x-secret/i)
})

test('hop-by-hop headers, and those that Connection names, stay here', async () => {
  const answer = await rawTls(
    bench,
    'api.example.com',
    'GET /echo HTTP/1.1\r\nHost: api.example.com\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: x\r\nTE: trailers\r\nProxy-Connection: y\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Kept: 1\r\n\r\n',
  )
  assert.match(answer, /^HTTP\/1\.1 200/)
  const { headers } = upstream.requests.at(-1) ?? assert.fail()
  assert.deepEqual(Object.keys(headers).sort(), ['connection', 'host', 'x-kept'])
  assert.equal(headers.connection, 'keep-alive')
})
