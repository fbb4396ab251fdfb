/** Answers made to be read twice, by a server or by somebody who chose the path that makes a server answer so. */
import assert from 'node:assert/strict'
import { connect as connectHttp2 } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createServer as createTlsServer } from 'node:tls'
import { gzipSync } from 'node:zlib'
import type { CredentialPlan } from '../../src/profile/plan.ts'
import { type Bench, planOf, rawTls, rule, startBench, testCa, tlsTo } from './harness.ts'

const HOST = 'api.example.com'
const SECRET = 'sk-real-0123456789abcdefghij'
const certificate = testCa.issue([HOST])
const closers: (() => unknown)[] = []
after(() => Promise.all(closers.map((close) => close())))

const KEY: CredentialPlan = {
  name: 'key',
  kind: 'header',
  header: 'x-api-key',
  prefix: '',
  source: 'env:X',
  env: null,
}

/** A gate in front of a TLS server that answers each request head with whatever `speak` writes. */
async function against(speak: (socket: Socket, head: string) => void, credential = false): Promise<Bench> {
  const server = createTlsServer(certificate, (socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => speak(socket, bytes.toString('latin1')))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const network = [
    rule({
      host: HOST,
      connect: { address: '127.0.0.1', port },
      ...(credential ? { credential: 'key' } : {}),
    }),
  ]
  const bench = await startBench(planOf(network, credential ? { credentials: [KEY] } : {}), {
    secrets: new Map([['key', SECRET]]),
    placeholders: new Map([['key', 'sk-ambitABCDEFGHIJKLMNOPQRST']]),
  })
  closers.push(
    () => bench.close(),
    () => server.close(),
  )
  return bench
}

const get = (path: string, more = ''): string => `GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\n${more}\r\n`
const ok = (body: string, more = ''): string =>
  `HTTP/1.1 200 OK\r\n${more}Content-Length: ${body.length}\r\n\r\n${body}`
const chunked = (body: Buffer, coding = 'chunked', more = ''): Buffer =>
  Buffer.concat([
    Buffer.from(
      `HTTP/1.1 200 OK\r\n${more}Transfer-Encoding: ${coding}\r\n\r\n${body.length.toString(16)}\r\n`,
    ),
    body,
    Buffer.from('\r\n0\r\n\r\n'),
  ])

test('an answer that nobody asked for is not the answer of the next request', async () => {
  let asked = 0
  const bench = await against((socket) => {
    asked++
    socket.write(ok(`answer ${asked}`))
    if (asked === 1) setTimeout(() => socket.write(ok('planted')), 30)
  })
  assert.equal((await bench.curl(`https://${HOST}/first`, '--http1.1')).body, 'answer 1')
  await sleep(150)
  assert.equal((await bench.curl(`https://${HOST}/second`, '--http1.1')).body, 'answer 2')
})

test('the beginning of an answer behind a whole one is not the beginning of the next', async () => {
  let asked = 0
  const bench = await against((socket) => {
    asked++
    socket.write(`${ok(`answer ${asked}`)}${asked === 1 ? 'HTTP/1.1 404 Planted\r\nX: ' : ''}`)
  })
  for (const answer of ['answer 1', 'answer 2']) {
    const { status, body } = await bench.curl(`https://${HOST}/`, '--http1.1')
    assert.deepEqual([status, body], [200, answer])
  }
})

const KEY_OF = /x-api-key: (\S+)/i
const UPGRADE =
  'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'

test('X-15: a key echoed in place of a WebSocket is masked, packed or not', async () => {
  const bench = await against((socket, head) => {
    const body = Buffer.from(`you sent ${KEY_OF.exec(head)?.[1]}`)
    if (!head.includes('/packed')) socket.write(ok(body.toString()))
    else {
      const packed = gzipSync(body)
      socket.write(`HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: ${packed.length}\r\n\r\n`)
      socket.write(packed)
    }
  }, true)
  for (const path of ['/plain', '/packed']) {
    const answer = await rawTls(bench, HOST, get(path, UPGRADE))
    assert.match(answer, /^HTTP\/1\.1 200/)
    assert.match(answer, /you sent \*+/, `${path}: ${answer}`)
    assert.ok(!answer.includes(SECRET))
  }
})

const frame = (payload: string): Buffer =>
  Buffer.concat([Buffer.from([0x81, payload.length]), Buffer.from(payload)])

test('X-15: a key echoed in WebSocket frames is masked, and never compressed', async () => {
  let seen = ''
  const bench = await against((socket, head) => {
    seen = head
    const key = KEY_OF.exec(head)?.[1] ?? ''
    socket.write('HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    const bytes = frame(`you sent ${key}`)
    socket.write(bytes.subarray(0, 20))
    setTimeout(() => socket.write(bytes.subarray(20)), 20)
    // Ends like the beginning of a secret: nothing of it may be kept back.
    setTimeout(() => socket.write(frame('bus')), 40)
  }, true)
  const answer = await rawTls(
    bench,
    HOST,
    get('/ws', `${UPGRADE}Sec-WebSocket-Extensions: permessage-deflate\r\n`),
  )
  assert.match(answer, /^HTTP\/1\.1 101/)
  assert.match(answer, /you sent \*+/)
  assert.ok(answer.endsWith('*\x81\x03bus'), answer)
  assert.ok(!answer.includes(SECRET))
  assert.doesNotMatch(seen, /sec-websocket-extensions/i)
})

test('X-15: a WebSocket that was compressed unasked is refused where a key is injected', async () => {
  const bench = await against((socket) => {
    socket.write(
      'HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n',
    )
  }, true)
  assert.match(await rawTls(bench, HOST, get('/ws', UPGRADE)), /^HTTP\/1\.1 502/)
})

test('X-15: a transfer coding that hides an echo is refused', async () => {
  for (const coding of ['gzip, chunked', 'chunked']) {
    const bench = await against((socket, head) => {
      const text = Buffer.from(`you sent ${KEY_OF.exec(head)?.[1]}`)
      socket.write(chunked(coding === 'chunked' ? text : gzipSync(text), coding))
    }, true)
    const { status, body } = await bench.curl(`https://${HOST}/`, '--http1.1')
    assert.equal(status, coding === 'chunked' ? 200 : 502, coding)
    if (coding === 'chunked') assert.match(body, /you sent \*+$/)
  }
})

test('X-15: a coding named behind 2,000 headers is seen', async () => {
  const bench = await against((socket, head) => {
    const packed = gzipSync(Buffer.from(`you sent ${KEY_OF.exec(head)?.[1]}`))
    socket.write(
      `HTTP/1.1 200 OK\r\nContent-Length: ${packed.length}\r\n${'A: b\r\n'.repeat(2500)}Content-Encoding: gzip\r\n\r\n`,
    )
    socket.write(packed)
  }, true)
  const answer = await rawTls(bench, HOST, get('/'))
  assert.ok(answer.startsWith('HTTP/1.1 502') || /you sent \*+\r/.test(answer), answer.slice(-200))
})

test('a message that ends like the beginning of a secret is not kept back', async () => {
  const bench = await against((socket) => {
    socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbus\r\n')
  }, true)
  assert.match(await rawTls(bench, HOST, get('/'), 800), /bu\r\n1\r\ns\r\n/)
})

test('X-15: a key of which the beginning had to be let go is masked in its rest', async () => {
  const bench = await against((socket, head) => {
    const key = KEY_OF.exec(head)?.[1] ?? ''
    socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n${key.slice(0, 3)}\r\n`)
    setTimeout(() => socket.write(chunkOf(key.slice(3))), 700)
  }, true)
  const answer = await rawTls(bench, HOST, get('/'), 1200)
  assert.match(answer, /sk-/)
  assert.ok(!answer.includes(SECRET.slice(6)), answer)
})

const chunkOf = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n0\r\n\r\n`

test('a header called like something of JavaScript’s own arrives as it was sent', async () => {
  const bench = await against((socket) =>
    socket.write(ok('hello', 'constructor: mine\r\n__proto__: mine too\r\n')),
  )
  const socket = await tlsTo(bench, HOST, { ALPNProtocols: ['h2'] })
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket })
  const stream = session.request({ ':path': '/' })
  const headers = await new Promise<Record<string, unknown>>((resolve) => stream.once('response', resolve))
  assert.equal(headers.constructor, 'mine')
  session.destroy()
})

test('N-22: a client cannot renegotiate', async () => {
  const bench = await against((socket) => socket.write(ok('hello')))
  const socket = await tlsTo(bench, HOST, { maxVersion: 'TLSv1.2' })
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  const outcome = await new Promise<string>((resolve) => {
    socket.once('error', (error) => resolve(`error ${(error as { code?: string }).code}`))
    socket.once('close', () => resolve('closed'))
    socket.renegotiate({ rejectUnauthorized: true }, (error) => resolve(error ? 'refused' : 'renegotiated'))
    setTimeout(() => resolve('nothing'), 1500).unref()
  })
  assert.notEqual(outcome, 'renegotiated')
  socket.destroy()
})
