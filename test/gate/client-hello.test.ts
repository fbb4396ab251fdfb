import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { test } from 'node:test'
import { connect, type ConnectionOptions } from 'node:tls'
import { parseClientHello } from '../../src/gate/client-hello.ts'

/** The first flight of a real client. */
async function realHello(options: ConnectionOptions): Promise<Buffer> {
  return await new Promise((resolve) => {
    const server = createServer((socket) => {
      socket.once('data', (bytes) => {
        socket.destroy()
        server.close()
        resolve(bytes)
      })
    })
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      connect({ host: '127.0.0.1', port, ...options }).on('error', () => undefined)
    })
  })
}

const u16 = (n: number): Buffer => Buffer.from([n >> 8, n & 0xff])
const vector = (size: 1 | 2, bytes: Buffer): Buffer =>
  Buffer.concat([size === 1 ? Buffer.from([bytes.length]) : u16(bytes.length), bytes])
const extension = (type: number, data: Buffer): Buffer => Buffer.concat([u16(type), vector(2, data)])
const nameEntry = (name: string, type = 0): Buffer =>
  Buffer.concat([Buffer.from([type]), vector(2, Buffer.from(name))])
const serverName = (...entries: Buffer[]): Buffer => extension(0, vector(2, Buffer.concat(entries)))

function message(extensions: Buffer, after: Buffer = Buffer.alloc(0)): Buffer {
  const body = Buffer.concat([
    u16(0x0303),
    Buffer.alloc(32),
    vector(1, Buffer.alloc(32)),
    vector(2, u16(0x1301)),
    vector(1, Buffer.from([0])),
    vector(2, extensions),
    after,
  ])
  return Buffer.concat([Buffer.from([1, 0]), u16(body.length), body])
}
const record = (bytes: Buffer, type = 22): Buffer =>
  Buffer.concat([Buffer.from([type, 3, 1]), vector(2, bytes)])
const hello = (...extensions: Buffer[]): Buffer => record(message(Buffer.concat(extensions)))

test('reads name and ALPN of a real hello', async () => {
  const bytes = await realHello({ servername: 'api.example.com', ALPNProtocols: ['h2', 'http/1.1'] })
  const result = parseClientHello(bytes)
  assert.deepEqual(result, {
    kind: 'hello',
    hello: { serverName: 'api.example.com', alpn: ['h2', 'http/1.1'], modern: true },
  })
})

test('N-21: every truncation of a hello is incomplete, never a hello without a name', async () => {
  const bytes = await realHello({ servername: 'api.example.com' })
  for (let length = 0; length < bytes.length; length++)
    assert.equal(parseClientHello(bytes.subarray(0, length)).kind, 'incomplete', String(length))
})

test('N-21: a name split over records is found', () => {
  const whole = message(serverName(nameEntry('api.example.com')))
  for (const size of [3, 10, 64]) {
    const parts: Buffer[] = []
    for (let at = 0; at < whole.length; at += size) parts.push(record(whole.subarray(at, at + size)))
    const result = parseClientHello(Buffer.concat(parts))
    if (parts.length > 32) assert.equal(result.kind, 'unreadable')
    else
      assert.deepEqual(result, {
        kind: 'hello',
        hello: { serverName: 'api.example.com', alpn: [], modern: false },
      })
  }
})

test('a hello without the extension has no name', () => {
  assert.deepEqual(parseClientHello(hello()), {
    kind: 'hello',
    hello: { serverName: null, alpn: [], modern: false },
  })
})

const good = nameEntry('api.example.com')
const UNREADABLE: Readonly<Record<string, Buffer>> = {
  'two names': hello(serverName(good, nameEntry('evil.invalid'))),
  'another name type': hello(serverName(nameEntry('api.example.com', 1))),
  'two name extensions': hello(serverName(good), serverName(nameEntry('evil.invalid'))),
  'an empty list': hello(serverName()),
  'an empty name': hello(serverName(nameEntry(''))),
  'a NUL in the name (N-06)': hello(serverName(nameEntry('evil\0.example.com'))),
  'bytes beyond ASCII': hello(serverName(nameEntry('bücher.example'))),
  'bytes after the list': hello(extension(0, Buffer.concat([vector(2, good), Buffer.from([0])]))),
  'a list longer than its extension': hello(extension(0, Buffer.concat([u16(200), good]))),
  'bytes after the extensions': record(message(serverName(good), Buffer.from([0]))),
  'an extension cut short': record(message(Buffer.from([0, 0, 0]))),
  'another message in the record': record(
    Buffer.concat([message(serverName(good)), Buffer.from([11, 0, 0, 0])]),
  ),
  'another handshake message': record(Buffer.from([2, 0, 0, 0])),
  'an endless hello': record(Buffer.from([1, 0xff, 0xff, 0xff])),
  'an empty record': record(Buffer.alloc(0)),
  'a record of another type in between': Buffer.concat([
    record(message(serverName(good)).subarray(0, 20)),
    record(message(serverName(good)).subarray(20), 23),
  ]),
}

for (const [name, bytes] of Object.entries(UNREADABLE))
  test(`N-21: ${name}: unreadable`, () => assert.equal(parseClientHello(bytes).kind, 'unreadable'))

test('no mutation of a byte makes it throw', async () => {
  const bytes = await realHello({ servername: 'api.example.com' })
  for (let at = 0; at < bytes.length; at++)
    for (const value of [0, 1, 0x7f, 0xff]) {
      const mutated = Buffer.from(bytes)
      mutated[at] = value
      parseClientHello(mutated)
    }
})
