/**
 * Raw HTTP/2 frame sequences (RFC 9113) at a running gate: whatever a client sends, the gate lives, its memory stays
 * bounded, and a server sees no request that was not decided on and recorded.
 */
import { connect as connectTls } from 'node:tls'
import { planOf, rule, startBench, testCa, until } from '../test/gate/harness.ts'
import { startUpstream } from '../test/fixtures/servers/upstream.ts'
import type { Random } from './fuzz.ts'
import { demand, type LiveTarget } from './live.ts'

const HOST = 'api.example.com'
const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
/** More than the test's own bookkeeping needs, less than an unbounded queue would take. */
const MOST_GROWTH = 256 << 20

export async function startHttp2Frames(): Promise<LiveTarget> {
  const upstream = await startUpstream({ tls: testCa.issue([HOST]), http2: true })
  const connect = { address: '127.0.0.1', port: upstream.port }
  const plan = planOf([rule({ host: HOST, connect, methods: ['GET', 'POST'], paths: ['/ok', '/ok/*'] })])
  const bench = await startBench(plan, { deadlines: { head: 1000, idle: 1000, response: 1000 } })
  const { addresses } = await bench.lookup(HOST)
  const aim = (): void => bench.aim(addresses[0] ?? '', 443)
  const before = process.memoryUsage.rss()
  let reached = 0
  const send = (input: Buffer): Promise<void> =>
    new Promise((resolve) => {
      const socket = connectTls({
        host: '127.0.0.1',
        port: bench.ports.tcp,
        servername: HOST,
        ca: bench.gate.caPem,
        ALPNProtocols: ['h2'],
      })
      const done = (): void => {
        socket.destroy()
        resolve()
      }
      let timer = setTimeout(done, 1500)
      socket.on('error', done)
      socket.on('close', done)
      socket.on('secureConnect', () => socket.write(input))
      socket.on('data', () => {
        clearTimeout(timer)
        timer = setTimeout(done, 30)
      })
    })
  return {
    seeds: SEEDS,
    make,
    run: async (inputs) => {
      aim()
      await Promise.all(inputs.map(send))
      demand((await bench.curl(`https://${HOST}/ok`, '--http2')).status === 200, 'the gate serves on')
      await until(() => bench.of('http.request').length === bench.of('http.response').length)
      const decided = bench.of('http.request').map(({ method, path }) => `${method} ${path}`)
      for (const { method, url, headers } of upstream.requests) {
        const at = decided.indexOf(`${method} ${url}`)
        demand(at !== -1, `${method} ${url} arrived without a decision`)
        demand(
          headers[':authority'] === HOST || headers.host === HOST,
          `for ${headers[':authority'] ?? headers.host}`,
        )
        demand(/^\/ok(?:$|[/?])/.test(url), `${url} is outside the rule`)
        decided.splice(at, 1)
      }
      // One is the control's own.
      reached += upstream.requests.length - 1
      bench.facts.length = 0
      upstream.requests.length = 0
      demand(process.memoryUsage.rss() - before < MOST_GROWTH, 'memory stays bounded')
    },
    reached: () => reached,
    close: async () => {
      await bench.close()
      await upstream.close()
    },
  }
}

function frame(type: number, flags: number, stream: number, payload: Buffer | string = ''): Buffer {
  const body = Buffer.from(payload)
  const head = Buffer.alloc(9)
  head.writeUIntBE(body.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, body])
}

/** A literal field without indexing, names and values as they are (RFC 7541 §6.2.2). */
const field = (name: string, value: string): Buffer =>
  Buffer.concat([
    Buffer.from([0, name.length]),
    Buffer.from(name, 'latin1'),
    Buffer.from([value.length & 0x7f]),
    Buffer.from(value, 'latin1'),
  ])

const block = (fields: Readonly<Record<string, string>>): Buffer =>
  Buffer.concat(Object.entries(fields).map(([name, value]) => field(name, value)))

const GET = { ':method': 'GET', ':scheme': 'https', ':authority': HOST, ':path': '/ok' }
const POST = { ...GET, ':method': 'POST' }
const SETTINGS = frame(4, 0, 0)
const [END_STREAM, END_HEADERS, BOTH] = [1, 4, 5]

const SEEDS = [
  [SETTINGS, frame(1, BOTH, 1, block(GET))],
  [SETTINGS, frame(1, END_HEADERS, 1, block(POST)), frame(0, END_STREAM, 1, 'hello')],
  [
    SETTINGS,
    frame(1, END_HEADERS, 1, block({ ...POST, 'content-length': '3' })),
    frame(0, END_STREAM, 1, 'hello'),
  ],
  [SETTINGS, frame(1, 0, 1, block(GET).subarray(0, 20)), frame(9, END_HEADERS, 1, block(GET).subarray(20))],
  [
    SETTINGS,
    frame(1, END_HEADERS, 1, block(POST)),
    frame(0, 0, 1, 'a'),
    frame(1, BOTH, 1, block({ 'x-trailer': '1' })),
  ],
  [
    SETTINGS,
    frame(4, 1, 0),
    frame(6, 0, 0, '12345678'),
    frame(8, 0, 0, '\0\0\0\x01'),
    frame(3, 0, 1, '\0\0\0\x08'),
    frame(7, 0, 0, '\0\0\0\0\0\0\0\0'),
  ],
  [
    frame(4, 0, 0, Buffer.from('0003000000000004000000000005ffffffff', 'hex')),
    frame(1, BOTH, 1, block(GET)),
    frame(1, BOTH, 3, block(GET)),
  ],
].map((frames) => Buffer.concat([PREFACE, ...frames]))

const ODD: readonly Readonly<Record<string, string>>[] = [
  GET,
  POST,
  { ...GET, ':path': '/secret' },
  { ...GET, ':path': '/ok/../secret' },
  { ...GET, ':path': '/ok?a=b' },
  { ...GET, ':path': '' },
  { ...GET, ':path': '*' },
  { ...GET, ':path': 'https://evil.test/ok' },
  { ...GET, ':authority': 'evil.test' },
  { ...GET, ':authority': `${HOST}:444` },
  { ...GET, host: 'evil.test' },
  { ...GET, ':method': 'CONNECT', ':protocol': 'websocket' },
  { ...GET, ':method': 'DELETE' },
  { ...GET, ':scheme': 'http' },
  { ...POST, 'transfer-encoding': 'chunked' },
  { ...POST, 'content-length': '5' },
  { ...POST, 'content-length': '5, 5' },
  { ...GET, connection: 'close', upgrade: 'h2c' },
  { ...GET, 'x-a': 'b\r\nx-c: d' },
  { ...GET, 'x-a\r\nx-b': '1' },
  { ...GET, 'X-Upper': '1' },
  { ...GET, constructor: '1', cookie: 'a' },
  { 'x-first': '1', ...GET },
  { ':method': 'GET', ':path': '/ok' },
]

/** Frames of every type, in an order and with flags that no client would choose. */
function make(random: Random): Buffer {
  const streams = [0, 1, 1, 1, 2, 3, 5, 0x7fffffff]
  const frames = Array.from({ length: 1 + random(12) }, () => {
    const stream = streams[random(streams.length)] ?? 1
    const flags = random(3) === 0 ? random(256) : random(2) === 0 ? BOTH : END_HEADERS
    switch (random(6)) {
      case 0:
      case 1:
        return frame(1, flags, stream, block(ODD[random(ODD.length)] ?? GET))
      case 2:
        return frame(0, random(2) === 0 ? END_STREAM : flags, stream, 'x'.repeat(random(2000)))
      case 3:
        return frame(9, flags, stream, block(ODD[random(ODD.length)] ?? GET))
      case 4:
        return frame(4, random(2), 0, Buffer.from(Array.from({ length: 6 * random(4) }, () => random(256))))
      default:
        return frame(
          random(12),
          flags,
          stream,
          Buffer.from(Array.from({ length: random(20) }, () => random(256))),
        )
    }
  })
  return Buffer.concat([PREFACE, SETTINGS, ...frames])
}
