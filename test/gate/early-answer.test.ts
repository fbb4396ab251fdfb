/** Answers that come before their request is whole: over HTTP/2 a server may want no more of it (RFC 9113 §8.1). */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import {
  type ClientHttp2Session,
  connect as connectHttp2,
  constants,
  createSecureServer,
  type ServerHttp2Stream,
} from 'node:http2'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { planOf, rule, startBench, testCa, tlsTo, until } from './harness.ts'

const HOST = 'api.example.com'
const { NGHTTP2_CANCEL: CANCEL, NGHTTP2_INTERNAL_ERROR: BROKEN, NGHTTP2_NO_ERROR: DONE } = constants

const LONG = 'x'.repeat(800_000)

/** What the server does with a request of which it reads nothing. */
const ROUTES: Readonly<Record<string, (stream: ServerHttp2Stream) => unknown>> = {
  '/early': async (stream) => {
    stream.respond({ ':status': 413 })
    stream.end('too large')
    await sleep(20)
    stream.close(DONE)
  },
  '/long': (stream) => {
    stream.respond({ ':status': 401 })
    stream.end(LONG)
    stream.once('finish', () => stream.close(DONE))
  },
  '/none': (stream) => stream.close(DONE),
  '/half': async (stream) => {
    stream.respond({ ':status': 200 })
    stream.write('half of it')
    await sleep(20)
    // Node ends the stream before it resets it.
    stream.close(CANCEL)
  },
  '/whole': (stream) => {
    stream.resume().on('end', () => stream.respond({ ':status': 204 }, { endStream: true }))
  },
}

const server = createSecureServer({ ...testCa.issue([HOST]), settings: { initialWindowSize: 65_535 } })
server.on('stream', (stream, { ':path': path }) => {
  stream.on('error', () => undefined)
  ROUTES[path ?? '']?.(stream)
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const { port } = server.address() as AddressInfo
const upload = { perRequest: 1 << 30, perMinute: 1 << 30, perSession: 1 << 30 }
const bench = await startBench(
  planOf([rule({ host: HOST, connect: { address: '127.0.0.1', port } })], { upload }),
)
const dir = mkdtempSync(join(tmpdir(), 'ambit-early-'))
const file = join(dir, 'body')
writeFileSync(file, Buffer.alloc(3 << 20))
const sessions: ClientHttp2Session[] = []
after(async () => {
  for (const session of sessions) session.destroy()
  await bench.close()
  server.close()
  rmSync(dir, { recursive: true })
})

async function client(): Promise<ClientHttp2Session> {
  const socket = await tlsTo(bench, HOST, { ALPNProtocols: ['h2'] })
  const session = connectHttp2(`https://${HOST}`, { createConnection: () => socket })
  sessions.push(session.on('error', () => undefined))
  return session
}

interface Seen {
  status: number
  body: string
  code: number | undefined
}

/** Sends `bytes` of a body, and no end of it unless they are all. */
function begin(session: ClientHttp2Session, path: string, bytes: number, all = false) {
  const stream = session.request({ ':path': path, ':method': 'POST' })
  const seen: Seen = { status: 0, body: '', code: undefined }
  stream.on('error', () => undefined)
  stream.on('response', (head) => (seen.status = head[':status'] ?? 0))
  stream.on('data', (chunk: Buffer) => (seen.body += chunk.toString()))
  stream.write(Buffer.alloc(bytes))
  if (all) stream.end()
  return { stream, seen }
}

/** What the client has seen once its stream is closed, or in five seconds. */
async function send(...upload: Parameters<typeof begin>): Promise<Seen> {
  const { stream, seen } = begin(...upload)
  const told = (): unknown => (seen.code = stream.rstCode)
  // Node closes no stream whose writing is not over.
  const gone = new Promise((resolve) => stream.once('aborted', resolve).once('close', resolve)).then(told)
  await Promise.race([gone, sleep(5000, null, { ref: false })])
  stream.destroy()
  return seen
}

const ended = (): number[] => bench.of('http.response').map(({ status }) => status)

test('curl gets the answer of a server that wants no more of its upload', async () => {
  const args = ['--http2', '-T', file, '-X', 'POST', '--max-time', '8']
  const { code, status, body } = await bench.curl(`https://${HOST}/early`, ...args)
  assert.deepEqual({ code, status, body }, { code: 0, status: 413, body: 'too large' })
  await until(() => ended().length === 1, 3000)
  assert.deepEqual(ended(), [413])
})

for (const bytes of [300_000, 10])
  test(`the client of an upload of ${bytes} bytes is told that no more is wanted`, async () => {
    const before = ended().length
    const session = await client()
    const seen = await send(session, '/early', bytes)
    assert.deepEqual(seen, { status: 413, body: 'too large', code: DONE })
    await until(() => ended().length === before + 1, 3000)
    // Positive control: a body that is wanted, on the same connections.
    assert.equal((await send(session, '/whole', bytes, true)).status, 204)
  })

test('an answer that the client reads later than its upload is stopped arrives whole', async () => {
  const { stream, seen } = begin(await client(), '/long', 300_000)
  stream.pause()
  await until(() => seen.status === 401, 3000)
  await sleep(300)
  const end = once(stream, 'end')
  stream.resume()
  await end
  assert.equal(seen.body.length, LONG.length)
  assert.equal(stream.rstCode, DONE)
  stream.destroy()
})

test('a server that wants no more and gives no answer is 502', async () => {
  const before = ended().length
  const { stream, seen } = begin(await client(), '/none', 300_000)
  await until(() => seen.status === 502, 3000)
  stream.destroy()
  await until(() => ended().length === before + 1, 3000)
})

test('half an answer to half a request is not a whole one', async () => {
  const seen = await send(await client(), '/half', 300_000)
  assert.deepEqual(seen, { status: 200, body: 'half of it', code: BROKEN })
})
