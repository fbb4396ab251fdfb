/** R-08 at the gate: what opens to much more than it is, and heads without end, from the agent and from a server. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { brotliCompressSync, constants, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { once } from '../support/case.ts'
import { attack, get, goodHost, head, KEY, post, raw, REAL_KEY, rule } from '../support/net-stage.ts'
import { withPeak } from '../support/peak.ts'
import { describe, Stage, type Step } from '../support/stage.ts'
import type { Answer, Seen } from '../support/upstream.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

const MOST_MIB = 600
/** Twice what any answer may hold for nothing. */
const ZEROS = Buffer.alloc(128 << 20)
const { BROTLI_PARAM_QUALITY, ZSTD_c_compressionLevel, ZSTD_c_windowLog } = constants

type Pack = (plain: Buffer) => Buffer
const wide = { [ZSTD_c_compressionLevel]: 1, [ZSTD_c_windowLog]: 27 }
const CODINGS: Readonly<Record<string, Pack>> = {
  gzip: (plain) => gzipSync(plain),
  deflate: (plain) => deflateSync(plain),
  br: (plain) => brotliCompressSync(plain, { params: { [BROTLI_PARAM_QUALITY]: 1 } }),
  zstd: (plain) =>
    zstdCompressSync(plain, { params: { [ZSTD_c_compressionLevel]: 1, [ZSTD_c_windowLog]: 21 } }),
}
/** Its window is 128 MiB, sixteen times what the content coding allows. */
const WIDE = zstdCompressSync(ZEROS, { params: wide })

const packed = once(async (coding: string) => CODINGS[coding]?.(ZEROS) ?? Buffer.alloc(0))

const fields = (bomb: boolean): string =>
  Array.from({ length: bomb ? 20_000 : 10 }, (_, n) => `x-${n}: ${'v'.repeat(80)}\r\n`).join('')
const CHUNKED = 'transfer-encoding: chunked\r\n\r\n2'
const RAW: Readonly<Record<string, (bomb: boolean) => string>> = {
  head: (bomb) => `content-length: 2\r\n${fields(bomb)}\r\nok`,
  trailers: (bomb) => `${CHUNKED}\r\nok\r\n0\r\n${fields(bomb)}\r\n`,
  extension: (bomb) => `${CHUNKED};${'e'.repeat(bomb ? 2 << 20 : 9)}\r\nok\r\n0\r\n\r\n`,
}

/** Answers in the coding that the path names; and heads and trailers that no client of good will gets. */
const answer: Answer = (request, response) => {
  const [, kind = '', size] = request.url.split('/')
  if (kind === 'wide') response.writeHead(200, { 'content-encoding': 'zstd' }).end(WIDE)
  else if (kind in CODINGS && size === 'bomb')
    void packed(kind).then((body) => response.writeHead(200, { 'content-encoding': kind }).end(body))
  else if (kind in CODINGS)
    response.writeHead(200, { 'content-encoding': kind }).end(CODINGS[kind]?.(Buffer.from('opened')))
  else if (kind in RAW) {
    // Past Node's server, which would answer nothing more on this connection.
    response.socket?.end(`HTTP/1.1 200 OK\r\nconnection: close\r\n${RAW[kind]?.(size === 'bomb')}`, 'latin1')
  } else response.end('hello')
}

const world = once(() => goodHost(answer, ['good.test', 'key.test']))

async function makeStage(as: 'user' | 'root'): Promise<Stage> {
  const { good } = await world(null)
  const stage = new Stage(as, { files: { 'notes.txt': 'notes' } })
  writeFileSync(join(stage.root, 'ca.pem'), good.ca, { mode: 0o644 })
  stage.spec = {
    ...stage.spec,
    network: [rule(stage, 'good.test'), rule(stage, 'key.test', { credential: 'key' })],
    credentials: [KEY],
    upload: { perRequest: '64MiB', perMinute: '200MiB', perSession: '200MiB' },
  }
  return stage
}

const KINDS = [...Object.keys(CODINGS), ...Object.keys(RAW)]
const fetched = (size: string): Step[] =>
  KINDS.map((kind) => get(`${kind} ${size}`, `https://key.test/${kind}/${size}`))

attack(
  'R-08',
  'an answer that opens or runs on without end is cut off, on record, and the gate stays small',
  async (as) => {
    const stage = await makeStage(as)
    const steps = [
      ...fetched('small'),
      ...fetched('bomb'),
      get('wide', 'https://key.test/wide'),
      get('after', 'https://key.test/'),
    ]
    const { value: ran, mib } = await withPeak(stage.root, () =>
      stage.inside(steps, { env: { REAL_KEY }, timeout: 240_000 }),
    )
    for (const kind of KINDS) {
      const small = ran.result(`${kind} small`)
      assert.equal(small.value?.status, 200, `control: ${kind} ${JSON.stringify(small)}`)
      assert.equal(small.value?.body, kind in CODINGS ? 'opened' : 'ok', `control: ${kind}`)
      const { ok, value } = ran.result(`${kind} bomb`)
      assert.ok(!ok || value?.status === 502, `${kind} passed: ${value?.status}, ${value?.length} bytes`)
    }
    const { ok, value } = ran.result('wide')
    assert.ok(!ok || value?.length === 0, `a window of 128 MiB passed: ${value?.length}`)
    assert.equal(ran.result('after').value?.body, 'hello', describe(ran))
    assert.ok(mib < MOST_MIB, `${mib} MiB`)
    const denied = await refusals(stage)
    for (const coding of Object.keys(CODINGS))
      assert.equal(denied.get(`/${coding}/bomb`), 'upstream.swollen', coding)
    assert.equal(denied.get('/wide'), 'upstream.failed')
    return `${KINDS.length + 1} cut off, ${mib} MiB at most`
  },
)

/** Path → reason of every refused request on record. */
async function refusals(stage: Stage): Promise<Map<string, string>> {
  const facts = (await stage.events()).filter((event) => event.ambit.kind === 'http.denied')
  return new Map(facts.map((event) => [event.http_request.url.path, event.ambit.reason]))
}

const u24 = (n: number): number[] => [n >> 16, (n >> 8) & 0xff, n & 0xff]
const frame = (type: number, flags: number, stream: number, payload: string): string =>
  Buffer.from([...u24(payload.length), type, flags, 0, ...u24(stream)]).toString('latin1') + payload
const PREFACE = `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${frame(4, 0, 0, '')}`
/** GET / of good.test, HPACK literals without indexing. */
const H2_HEAD = '\x82\x87\x84\x01\x09good.test'
/** One header field of 100 bytes, likewise. */
const FIELD = `\x00\x01a\x64${'v'.repeat(100)}`
const many = (fields: number, text = 'v'): string =>
  Array.from({ length: fields }, (_, n) => `x-${n}: ${text}\r\n`).join('')
// A connection that ends with its answer: nobody waits for more.
const CLOSE = 'host: good.test\nconnection: close\n'
const request = (more: string): string => `${head(`GET / HTTP/1.1\n${CLOSE}`)}${more}\r\n`
const chunks = (more: string, path: string): string =>
  `${head(`POST /${path} HTTP/1.1\n${CLOSE}transfer-encoding: chunked\n\n`)}${more}`
const h2 = { alpn: ['h2'] }

/** Sent raw over TLS: what the first line of the answer begins with; null: the connection ends with nothing useful. */
const HEADS: Readonly<Record<string, readonly [sent: unknown, wanted: RegExp, more?: object]>> = {
  'a head of 40 fields': [request(many(40)), /^HTTP\/1\.1 200/],
  'a head of 5,000 fields': [request(many(5000)), /^HTTP\/1\.1 431/],
  'a field of 1 MiB': [request(`x: ${'v'.repeat(1 << 20)}\r\n`), /^HTTP\/1\.1 431|^$/],
  'trailers of 3 fields': [chunks(`2\r\nok\r\n0\r\n${many(3)}\r\n`, 'few'), /^HTTP\/1\.1 200/],
  'trailers without end': [
    chunks(`2\r\nok\r\n0\r\n${many(20_000, 'v'.repeat(80))}\r\n`, 'many'),
    /^(?!HTTP\/1\.1 200)/,
  ],
  'an extension of a chunk': [chunks('2;e\r\nok\r\n0\r\n\r\n', 'few'), /^HTTP\/1\.1 200/],
  'an extension of 2 MiB': [
    chunks(`2;${'e'.repeat(2 << 20)}\r\nok\r\n0\r\n\r\n`, 'many'),
    /^(?!HTTP\/1\.1 200)/,
  ],
  'HTTP/2, a small head': [PREFACE + frame(1, 5, 1, H2_HEAD), /hello/, h2],
  'HTTP/2, 3 continuations': [
    PREFACE + frame(1, 1, 1, H2_HEAD) + frame(9, 0, 1, FIELD).repeat(2) + frame(9, 4, 1, FIELD),
    /hello/,
    h2,
  ],
  'HTTP/2, 20,000 continuations': [
    PREFACE + frame(1, 1, 1, H2_HEAD) + frame(9, 0, 1, FIELD).repeat(20_000),
    /^(?![^]*hello)/,
    h2,
  ],
  'HTTP/2, a head of 16,000 indexed fields': [
    PREFACE + frame(1, 5, 1, `${H2_HEAD}\x40\x01a\x64${'v'.repeat(100)}${'\xbe'.repeat(16_000)}`),
    /^(?![^]*hello)/,
    h2,
  ],
}

attack(
  'R-08',
  'a request that opens to much passes as it is; a head without end is refused, and the gate stays small',
  async (as) => {
    const { good } = await world(null)
    const stage = await makeStage(as)
    const seen = good.requests.length
    const bomb = (await packed('gzip')).toString('latin1')
    const encoded = { 'content-encoding': 'gzip', 'content-type': 'application/json' }
    const steps: Step[] = [
      post('small body', 'https://good.test/small', gzipSync('{}').toString('latin1'), encoded),
      post('bomb body', 'https://good.test/bomb', bomb, encoded),
      post('deep body', 'https://good.test/deep', '['.repeat(1e6), {
        'content-type': 'application/problem+json',
      }),
      ...Object.entries(HEADS).map(([name, [sent, , more]]) =>
        raw(name, sent, 'good.test', { wait: 4000, ...more }),
      ),
      get('after', 'https://good.test/'),
    ]
    const { value: ran, mib } = await withPeak(stage.root, () => stage.inside(steps, { env: { REAL_KEY } }))
    for (const name of ['small body', 'bomb body', 'deep body', 'after'])
      assert.equal(ran.result(name).value?.status, 200, `${name}: ${describe(ran)}`)
    for (const [name, [, wanted]] of Object.entries(HEADS)) {
      const { value, error = '' } = ran.result(name)
      assert.match(value?.received ?? error, wanted, `${name}: ${String(value?.received).slice(0, 200)}`)
    }
    const arrived = good.requests.slice(seen)
    const at = (path: string): Seen | undefined => arrived.find(({ url }) => url === path)
    assert.equal(at('/bomb')?.bytes, bomb.length, 'the body passed as it was')
    assert.ok(
      !arrived.some(({ url, complete }) => url === '/many' && complete),
      'an endless message arrived whole',
    )
    assert.ok(mib < MOST_MIB, `${mib} MiB`)
    const reasons = (await stage.events())
      .filter((event) => event.ambit.kind === 'http.denied')
      .map((event) => event.ambit.reason)
    assert.ok(reasons.includes('http.head-too-large'), reasons.join())
    return `${Object.keys(HEADS).length} heads, 3 bodies, ${mib} MiB at most`
  },
)
