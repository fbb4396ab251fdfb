/** The inlet reads what node:http reads, however it is cut into pieces, and its answers end where they say. */
import assert from 'node:assert/strict'
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { after, test } from 'node:test'
import { xorshift } from '../../fuzz/fuzz.ts'
import { Inlet, type InletRequest } from '../../src/gate/inlet.ts'
import type { Reply } from '../../src/gate/reply.ts'

interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: readonly string[]
  body: string
  whole: boolean
}
type Handler = (request: InletRequest | IncomingMessage, reply: Reply | ServerResponse) => void

/** A server that reads by the inlet, or by node:http alone. */
async function startServer(handler: Handler, by: 'inlet' | 'node', patience = 10_000) {
  let inlets = 0
  let left = 0
  const node = createHttpServer(handler)
  node.on('clientError', (_, socket) => socket.end('HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n'))
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    if (by === 'node') return void node.emit('connection', socket)
    new Inlet(socket, {
      head: patience,
      idle: patience,
      serve: (request, reply) => {
        inlets++
        handler(request, reply)
      },
      leave: () => {
        left++
        node.emit('connection', socket)
      },
      slow: () => socket.end('HTTP/1.1 408 slow\r\n\r\n'),
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => server.close())
  const { port } = server.address() as AddressInfo
  return { port, counts: () => ({ inlets, left }) }
}

/** What comes back to `pieces`, until the server hangs up or says nothing more. */
function talk(port: number, pieces: readonly (string | Buffer)[], quiet = 400): Promise<string> {
  return new Promise((resolve) => {
    const socket: Socket = connect(port, '127.0.0.1')
    socket.setNoDelay(true)
    let text = ''
    let timer: NodeJS.Timeout | undefined
    let waits = 0
    const done = (): void => {
      waits++
      clearTimeout(timer)
      socket.destroy()
      resolve(text)
    }
    /** A stalled process sees its timer run out before what has long come: both ends live in it. */
    const settle = async (mine: number): Promise<void> => {
      for (let turn = 0; turn < 20; turn++) await new Promise((again) => setImmediate(again))
      if (mine === waits) done()
    }
    const wait = (): void => {
      clearTimeout(timer)
      const mine = ++waits
      timer = setTimeout(() => void settle(mine), quiet)
    }
    const say = async (): Promise<void> => {
      for (const piece of pieces) {
        socket.write(piece)
        await new Promise((again) => setImmediate(() => setImmediate(again)))
      }
      wait()
    }
    socket.on('error', done).on('close', done)
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
      wait()
    })
    socket.on('connect', () => void say())
  })
}

const plain = ({ method, url, headers, body }: Seen) => ({ method, url, headers, body })
const statuses = (text: string): string[] =>
  [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1] ?? '')

/** Answers late, so that what is pipelined has to wait. */
const recorder =
  (seen: Seen[]): Handler =>
  (request, reply) => {
    const { method = '', url = '', rawHeaders } = request
    const one: Seen = { method, url, headers: rawHeaders, body: '', whole: false }
    seen.push(one)
    const answer = (): void => {
      const body = Buffer.from(`ok ${url}`)
      ;(reply as Reply).writeHead(200, ['Content-Length', String(body.length)])
      ;(reply as Reply).end(method === 'HEAD' ? undefined : body)
    }
    const events = request as IncomingMessage
    events.on('error', () => undefined)
    events.on('data', (chunk: Buffer) => (one.body += chunk.toString('latin1')))
    events.on('end', () => {
      one.whole = true
      setImmediate(answer)
    })
  }

const MESSAGES = [
  'GET /a HTTP/1.1\r\nHost: h\r\n\r\n',
  'HEAD /h HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n',
  'POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello',
  'POST /g HTTP/1.1\r\nHost: h\r\nContent-Length: 33\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n'.slice(
    0,
    -2,
  ),
  'PUT /0 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n',
  `PATCH /long HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n${'x'.repeat(70_000)}`,
  `GET /many HTTP/1.1\r\nHost: h\r\n${Array.from({ length: 40 }, (_, i) => `X-${i}: ${i}\r\n`).join('')}\r\n`,
  'POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n',
  'POST /both HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  'POST /two HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd',
  'POST /plus HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc',
  'GET /fold HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n',
  'GET /lf HTTP/1.1\nHost: h\n\n',
  'GET /space HTTP/1.1\r\nHost : h\r\n\r\n',
  '\r\nGET /crlf HTTP/1.1\r\nHost: h\r\n\r\n',
]

/** Not among those that others follow: whether an error overtakes the answer would be a matter of time. */
const LAST = [
  'GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n',
  'GET /old HTTP/1.0\r\nHost: h\r\n\r\n',
]

test('whatever comes, in whatever pieces: the same requests, bodies and answers as by node:http', async () => {
  const seen: Record<'inlet' | 'node', Seen[]> = { inlet: [], node: [] }
  const inlet = await startServer(recorder(seen.inlet), 'inlet')
  const node = await startServer(recorder(seen.node), 'node')
  const seed = Date.now() % 2 ** 31
  const random = xorshift(seed)
  for (let round = 0; round < 100; round++) {
    // Mostly usual ones, or nothing would stay with the inlet for long.
    const pick = (): string => MESSAGES[random(4) === 0 ? random(MESSAGES.length) : random(6)] ?? ''
    // The server hangs up behind the last one, so that nobody has to guess when all is said.
    const text = [...Array.from({ length: 1 + random(5) }, pick), LAST[random(2)]].join('')
    const cuts = Array.from({ length: random(4) }, () => random(text.length)).sort((x, y) => x - y)
    const pieces = [0, ...cuts].map((from, at) => text.slice(from, cuts[at] ?? text.length))
    const [ours, theirs] = await Promise.all([talk(inlet.port, pieces, 3000), talk(node.port, pieces, 3000)])
    const where = `seed ${seed}, round ${round}: ${JSON.stringify(pieces.map((piece) => piece.slice(0, 200)))}`
    const [read, wanted] = [seen.inlet.splice(0), seen.node.splice(0)]
    assert.deepEqual(read.map(plain), wanted.map(plain), where)
    // Behind something malformed a server hangs up, and what of its earlier answers still arrives is a matter of time.
    if (['/x', '/old'].includes(wanted.at(-1)?.url ?? ''))
      assert.deepEqual(statuses(ours), statuses(theirs), where)
  }
  const { inlets, left } = inlet.counts()
  assert.ok(inlets > 50 && left > 10, `control: ${inlets} by the inlet, ${left} left it`)
})

test('a thousand requests in one piece are answered in order', async () => {
  const seen: Seen[] = []
  const { port, counts } = await startServer(recorder(seen), 'inlet')
  const all = Array.from({ length: 1000 }, (_, i) => `GET /${i} HTTP/1.1\r\nHost: h\r\n\r\n`).join('')
  const text = await talk(port, [all], 500)
  assert.deepEqual(
    [...text.matchAll(/ok \/(\d+)/g)].map((match) => Number(match[1])),
    Array.from({ length: 1000 }, (_, i) => i),
  )
  assert.equal(counts().left, 0)
})

test('an answer before the body is whole: the rest is read and thrown away, the next request is served', async () => {
  const { port } = await startServer((request, reply) => {
    ;(reply as Reply).writeHead(200, ['Content-Length', '0', 'X-Path', request.url ?? ''])
    ;(reply as Reply).end()
  }, 'inlet')
  const head = 'POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n'
  const text = await talk(port, [
    head,
    'x'.repeat(50_000),
    'x'.repeat(50_000),
    'GET /next HTTP/1.1\r\nHost: h\r\n\r\n',
  ])
  assert.deepEqual(
    [...text.matchAll(/X-Path: (\S+)/g)].map((match) => match[1]),
    ['/early', '/next'],
  )
})

test('a body is held back while its reader pauses, and a client that goes is noticed', async () => {
  let closed = false
  let got = 0
  let request: InletRequest | undefined
  const { port } = await startServer((incoming, reply) => {
    request = incoming as InletRequest
    reply.on('close', () => (closed = true))
    request.on('data', (chunk: Buffer) => {
      got += chunk.length
      request?.pause()
    })
  }, 'inlet')
  const size = 8 << 20
  const head = `POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: ${size}\r\n\r\n`
  await talk(port, [head, Buffer.alloc(size / 2, 'x')], 150)
  assert.ok(got > 0 && got < 1 << 20, `${got} bytes passed a reader that pauses`)
  for (let i = 0; i < 400 && !closed; i++) {
    request?.resume()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  assert.ok(closed, 'the end of the connection')
})

test('nothing said, and nothing more said: both have their time', async () => {
  const { port } = await startServer(recorder([]), 'inlet', 300)
  const began = performance.now()
  assert.match(await talk(port, [], 2000), /^HTTP\/1\.1 408/)
  assert.match(await talk(port, ['GET /a HTTP/1.1\r\nHost: h\r\n\r\n'], 2000), /ok \/a$/)
  assert.ok(performance.now() - began < 2000)
})

const ENDINGS: readonly [string, string, (reply: Reply) => void, RegExp][] = [
  [
    'by length',
    'GET',
    (reply) => (reply.writeHead(200, ['content-length', '3']), reply.end(Buffer.from('abc'))),
    /\r\n\r\nabc$/,
  ],
  [
    'by chunks',
    'GET',
    (reply) => (reply.writeHead(200, ['A', 'b']), reply.write(Buffer.from('abc')), reply.end()),
    /Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n$/,
  ],
  [
    'with a trailer',
    'GET',
    (reply) => (reply.writeHead(200, []), reply.addTrailers({ sum: '1' }), reply.end(Buffer.from('abc'))),
    /3\r\nabc\r\n0\r\nsum: 1\r\n\r\n$/,
  ],
  [
    'large',
    'GET',
    (reply) => (reply.writeHead(200, []), reply.end(Buffer.alloc(40_000, 'x'))),
    /\r\n9c40\r\nx{40000}\r\n0\r\n\r\n$/,
  ],
  [
    'none after HEAD',
    'HEAD',
    (reply) => (reply.writeHead(200, ['content-length', '3']), reply.end(Buffer.from('abc'))),
    /content-length: 3\r\n[^]*\r\n\r\n$/,
  ],
  [
    'none with 204',
    'GET',
    (reply) => (reply.writeHead(204, []), reply.end(Buffer.from('abc'))),
    /timeout=60\r\n\r\n$/,
  ],
  [
    'with the connection',
    'GET',
    (reply) => (
      reply.writeHead(403, 'No', { 'content-length': 2, connection: 'close' }), reply.end(Buffer.from('no'))
    ),
    /^HTTP\/1\.1 403 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno$/,
  ],
]
for (const [name, method, answer, wanted] of ENDINGS)
  test(`an answer ends: ${name}`, async () => {
    const { port } = await startServer((_, reply) => answer(reply as Reply), 'inlet')
    assert.match(await talk(port, [`${method} / HTTP/1.1\r\nHost: h\r\n\r\n`]), wanted)
  })

test('an answer longer or shorter than announced is broken off, and no field begins another', async () => {
  for (const body of ['ab', 'abcd']) {
    const { port } = await startServer((_, reply) => {
      ;(reply as Reply).writeHead(200, ['content-length', '3'])
      ;(reply as Reply).end(Buffer.from(body))
    }, 'inlet')
    const text = await talk(port, ['GET / HTTP/1.1\r\nHost: h\r\n\r\n', 'GET / HTTP/1.1\r\nHost: h\r\n\r\n'])
    assert.ok(statuses(text).length <= 1 && !text.includes('abcd'), text)
  }
  const { port } = await startServer((_, reply) => {
    for (const bad of [
      ['a\r\nb', 'c'],
      ['a', 'b\r\nc: d'],
      ['a', 'ĉ'],
      ['content-length', '1x'],
    ])
      assert.throws(() => (reply as Reply).writeHead(200, bad), TypeError)
    ;(reply as Reply).writeHead(200, ['fine', 'yes'])
    ;(reply as Reply).end()
  }, 'inlet')
  assert.match(await talk(port, ['GET / HTTP/1.1\r\nHost: h\r\n\r\n']), /^HTTP\/1\.1 200 OK\r\nfine: yes\r\n/)
})
