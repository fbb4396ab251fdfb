/**
 * The same odd HTTP/1 requests through a gate to three servers with parsers of their own: Node's, Python's and Go's.
 * What each understood must be exactly what the gate decided on and recorded: as many requests, each with the method,
 * path, host and body length of its record. A difference is a request that was smuggled.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type Bench, planOf, rule, startBench } from '../test/gate/harness.ts'
import type { Random } from './fuzz.ts'
import { demand, type LiveTarget } from './live.ts'

interface Understood {
  readonly method: string
  readonly path: string
  readonly hosts: readonly string[]
  readonly bytes: number
  readonly whole: boolean
}

interface Reader {
  readonly host: string
  readonly port: number
  readonly understood: Understood[]
  /** Messages that it took for malformed. */
  refused: number
  close(): void
}

const FIXTURES = join(import.meta.dirname, '../test/fixtures/servers/record')
/** In seeds and generated requests; replaced by the host of each server. */
const HOST = 'target.test'

/** Servers that exist on this machine; at least two, or the comparison says nothing. */
export async function startDifferential(): Promise<LiveTarget> {
  const readers = [await nodeReader()]
  for (const start of [pythonReader, goReader]) {
    const reader = await start().catch(() => null)
    if (reader) readers.push(reader)
  }
  if (readers.length < 2) throw new Error('neither python3 nor go is installed: nothing to compare with')
  const network = readers.map(({ host, port }) =>
    rule({
      host,
      ports: [80],
      plain: true,
      methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND', 'M-SEARCH'],
      connect: { address: '127.0.0.1', port },
    }),
  )
  const bench = await startBench(planOf(network), { deadlines: { head: 300, idle: 300, response: 1000 } })
  return {
    seeds: SEEDS.map((seed) => Buffer.from(seed, 'latin1')),
    make,
    run: async (inputs) => {
      await Promise.all(readers.map((reader) => compare(bench, reader, inputs)))
    },
    reached: () => readers.reduce((sum, reader) => sum + reader.understood.length, 0),
    close: async () => {
      await bench.close()
      for (const reader of readers) reader.close()
    },
  }
}

async function compare(bench: Bench, reader: Reader, inputs: readonly Buffer[]): Promise<void> {
  const before = { facts: bench.facts.length, understood: reader.understood.length, refused: reader.refused }
  await Promise.all(inputs.map((input) => send(bench, reader.host, input)))
  const decided = await settled(bench, reader.host, before.facts)
  await arrival(() => reader.understood.length - before.understood >= decided.length, 300)
  const seen = reader.understood.slice(before.understood)
  demand(reader.refused === before.refused, `${reader.host} was sent something malformed`)
  demand(
    seen.length <= decided.length,
    `${reader.host} understood ${seen.length} requests of ${decided.length}`,
  )
  const open = [...decided]
  // Whole ones first: a body that was broken off fits any request of its kind, and must take none from another.
  for (const { method, path, hosts, bytes, whole } of seen.toSorted(
    (x, y) => Number(y.whole) - Number(x.whole),
  )) {
    demand(hosts.length === 1 && hosts[0] === reader.host, `${reader.host} read the hosts ${hosts.join('|')}`)
    const alike = (one: Decided): boolean => one.method === method && one.path === path
    const exact = open.findIndex((one) => alike(one) && one.out > one.bytes && one.out - one.bytes === bytes)
    const at = exact !== -1 ? exact : open.findIndex((one) => alike(one) && (!whole || counted(one, bytes)))
    const what = `${reader.host} understood ${method} ${path} with ${bytes} bytes`
    demand(at !== -1, `${what}; decided: ${JSON.stringify(open)}`)
    open.splice(at, 1)
  }
}

interface Decided {
  readonly method: string
  readonly path: string
  /** Head and declared length. */
  readonly bytes: number
  /** Sent in the end. */
  readonly out: number
}

/** A declared body was sent as declared; a chunked one comes on top of what the record foresaw. */
const counted = ({ bytes, out }: Decided, body: number): boolean => out === bytes || out - bytes === body

/** What the gate decided on since, once every request has its end. */
async function settled(bench: Bench, host: string, from: number): Promise<Decided[]> {
  const ends = new Map<number, number>()
  const requests = () =>
    bench.facts.slice(from).flatMap((fact) => (fact.k === 'http.request' && fact.host === host ? [fact] : []))
  await arrival(() => {
    for (const fact of bench.facts.slice(from))
      if (fact.k === 'http.response') ends.set(fact.request, fact.bytesOut)
    return requests().every(({ request }) => ends.has(request))
  }, 2500)
  return requests().map(({ request, method, path, bytes }) => ({
    method,
    path,
    bytes,
    out: ends.get(request) ?? 0,
  }))
}

async function arrival(done: () => boolean, ms: number): Promise<void> {
  for (const end = performance.now() + ms; !done() && performance.now() < end; )
    await new Promise((resolve) => setTimeout(resolve, 4))
}

/** Through the proxy, so that connections need no aim of their own. Ends when the gate closes or is quiet. */
function send(bench: Bench, host: string, input: Buffer): Promise<void> {
  const bytes = Buffer.from(input.toString('latin1').replaceAll(HOST, host), 'latin1')
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port: bench.ports.proxy })
    const done = (): void => {
      socket.destroy()
      resolve()
    }
    let timer = setTimeout(done, 700)
    let open = false
    socket.on('error', done)
    socket.on('close', done)
    socket.on('connect', () => socket.write(`CONNECT ${host}:80 HTTP/1.1\r\nHost: ${host}:80\r\n\r\n`))
    socket.on('data', () => {
      clearTimeout(timer)
      timer = setTimeout(done, open ? 40 : 80)
      if (!open) socket.write(bytes)
      open = true
    })
  })
}

async function nodeReader(): Promise<Reader> {
  const understood: Understood[] = []
  const reader = { host: 'node.test', port: 0, understood, refused: 0, close: () => void server.close() }
  const server = createServer((request, response) => {
    let bytes = 0
    const hosts = request.rawHeaders.filter(
      (_, at) => at % 2 === 1 && /^host$/i.test(request.rawHeaders[at - 1] ?? ''),
    )
    const say = (whole: boolean): void =>
      void understood.push({ method: request.method ?? '', path: request.url ?? '', hosts, bytes, whole })
    request.on('data', (chunk: Buffer) => (bytes += chunk.length))
    request.on('error', () => say(false))
    request.on('end', () => {
      say(true)
      response.end('ok')
    })
  })
  server.on('clientError', (error: { code?: string }, socket) => {
    // The gate breaks a body off that its client broke off; that is no malformed message.
    if (error.code !== 'ECONNRESET' && error.code !== 'HPE_INVALID_EOF_STATE') reader.refused++
    socket.destroy()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  server.unref()
  return Object.assign(reader, { port: (server.address() as AddressInfo).port })
}

const pythonReader = (): Promise<Reader> =>
  programReader('python.test', 'python3', [join(FIXTURES, 'record.py')])

async function goReader(): Promise<Reader> {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-fuzz-go-'))
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  const program = join(dir, 'record')
  execFileSync('go', ['build', '-o', program, join(FIXTURES, 'record.go')], { stdio: 'ignore' })
  return await programReader('go.test', program, [])
}

/** A program that prints its port, then what it understands. */
function programReader(host: string, program: string, argv: readonly string[]): Promise<Reader> {
  const child: ChildProcess = spawn(program, argv, { stdio: ['ignore', 'pipe', 'ignore'] })
  process.once('exit', () => child.kill('SIGKILL'))
  const understood: Understood[] = []
  const reader = { host, port: 0, understood, refused: 0, close: () => void child.kill('SIGKILL') }
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', () => reject(new Error(`${program} ended`)))
    if (!child.stdout) return reject(new Error('no output'))
    return void createInterface(child.stdout).on('line', (line) => {
      const said = JSON.parse(line) as Partial<Understood> & { port?: number; refused?: number }
      if (said.port !== undefined) resolve(Object.assign(reader, { port: said.port }))
      else if (said.refused !== undefined) reader.refused++
      else understood.push(said as Understood)
    })
  })
}

const request = (start: string, headers: string, body = ''): string =>
  `${start} HTTP/1.1\r\nHost: ${HOST}\r\n${headers}\r\n${body}`

const SEEDS = [
  request('GET /a', ''),
  request('POST /a', 'Content-Length: 5\r\n', 'hello'),
  request('POST /a', 'Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n0\r\n\r\n'),
  request('POST /a', 'Transfer-Encoding: chunked\r\n', '5;x=1\r\nhello\r\n0\r\nX-T: 1\r\n\r\n') +
    request('GET /b', ''),
  request('PUT /a', 'Content-Length: 0\r\nExpect: 100-continue\r\n') + request('DELETE /b', ''),
  request('HEAD /a', 'Connection: close, x-a\r\nX-A: 1\r\n'),
]

const METHODS = [
  'GET',
  'POST',
  'PUT',
  'HEAD',
  'DELETE',
  'OPTIONS',
  'PATCH',
  'PROPFIND',
  'M-SEARCH',
  'get',
  'POST\t',
  'CONNECT',
  'TRACE',
  '',
]
const TARGETS = [
  '/',
  '/a',
  '/a?b=c&d',
  '/a%20b',
  '/%2e%2e/a',
  '//a',
  '/a/../b',
  '/a;b',
  '/a\\b',
  '/"<>^`{|}',
  '*',
  `http://${HOST}/a`,
  'http://evil.test/a',
  '/a b',
  '/a#b',
  '/\x7f',
  '/\xff',
  '',
]
const VERSIONS = [
  ' HTTP/1.1',
  ' HTTP/1.1',
  ' HTTP/1.1',
  ' HTTP/1.0',
  ' HTTP/1.2',
  ' HTTP/2.0',
  ' http/1.1',
  '  HTTP/1.1',
  ' HTTP/1.1 ',
  '',
]
const HEADERS = [
  'Content-Length: 5',
  'Content-Length: 05',
  'Content-Length: +5',
  'Content-Length: 5, 5',
  'Content-Length:\t5 ',
  'content-length: 7',
  'Content-Length: 5\r\nContent-Length: 5',
  'Content_Length: 9',
  'Content-Length : 5',
  ' Content-Length: 5',
  'X: 1\r\n Content-Length: 5',
  'X: 1\rContent-Length: 5',
  'X: 1\nContent-Length: 5',
  'X: \x00',
  'X: \x0b\x0c\x85\xa0',
  'Transfer-Encoding: chunked',
  'transfer-encoding: Chunked',
  'Transfer-Encoding: chunked ',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding: chunked, chunked',
  'Transfer-Encoding: identity',
  'Transfer-Encoding:\x0bchunked',
  'Transfer_Encoding: chunked',
  'Transfer-Encoding: "chunked"',
  'Transfer-Encoding:',
  'Host: evil.test',
  `Host: ${HOST}`,
  'X-Forwarded-Host: evil.test',
  'Connection: close',
  'Connection: keep-alive, host',
  'Connection: transfer-encoding',
  'Connection: Upgrade\r\nUpgrade: h2c',
  'Expect: 100-continue',
  'Expect: 100-CONTINUE, x',
  'TE: trailers',
  'Trailer: X',
  'Cookie: a=b',
  'Cookie: c',
  `X-Long: ${'x'.repeat(3000)}`,
  'X-Ä: 1',
  'X Y: 1',
  ':path: /b',
  'constructor: 1',
  '__proto__: 1',
  'Range: bytes=0-1',
  'Content-Encoding: gzip',
  'Keep-Alive: 1',
]
const BODIES = [
  '',
  'hello',
  'helloGET /smuggled HTTP/1.1\r\nHost: target.test\r\n\r\n',
  '5\r\nhello\r\n0\r\n\r\n',
  '05\r\nhello\r\n0\r\n\r\n',
  '5 \r\nhello\r\n0\r\n\r\n',
  '5;a="\r\n\r\n"\r\nhello\r\n0\r\n\r\n',
  '5\nhello\n0\n\n',
  '5\r\nhello\r\n00\r\n\r\n',
  '0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: target.test\r\n\r\n',
  '5\r\nhello\r\n0\r\nContent-Length: 9\r\nHost: evil.test\r\n\r\n',
  '-1\r\n',
  'g\r\n',
  '5\r\nhell',
]

/** A request put together from odd parts, sometimes two in a row. */
function make(random: Random): Buffer {
  const pick = (list: readonly string[]): string => list[random(list.length)] ?? ''
  const one = (): string => {
    const headers = Array.from({ length: random(4) }, () => `${pick(HEADERS)}\r\n`).join('')
    // Mostly well-formed around one or two oddities: what is refused at once compares nothing.
    const method = random(4) === 0 ? pick(METHODS) : pick(['GET', 'POST', 'PUT'])
    const target = random(3) === 0 ? pick(TARGETS) : '/a'
    const version = random(6) === 0 ? pick(VERSIONS) : ' HTTP/1.1'
    const host = random(10) === 0 ? '' : `Host: ${HOST}\r\n`
    return `${method} ${target}${version}\r\n${host}${headers}\r\n${pick(BODIES)}`
  }
  return Buffer.from(random(3) === 0 ? one() + one() : one(), 'latin1')
}
