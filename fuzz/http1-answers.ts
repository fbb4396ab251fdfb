/**
 * Answers of a hostile server, whole in one write and then silent: the client gets at most one answer to its request,
 * and no byte of it is ever part of the answer to another.
 */
import { type AddressInfo, connect, createServer } from 'node:net'
import { planOf, rule, startBench } from '../test/gate/harness.ts'
import type { Random } from './fuzz.ts'
import { demand, type LiveTarget } from './live.ts'

const HOST = 'server.test'

export async function startHttp1Answers(): Promise<LiveTarget> {
  let queue: readonly Buffer[] = []
  let reached = 0
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => {
      const [, kind, number] = /^GET \/(control|odd)\/(\d+) /.exec(bytes.toString('latin1')) ?? []
      const control = `HTTP/1.1 200 OK\r\nContent-Length: ${10 + (number?.length ?? 0)}\r\n\r\n<control ${number}>`
      socket.write(kind === 'odd' ? (queue[Number(number)] ?? '') : control)
      // Every other one: a server that never ends what it began costs a deadline each.
      if (kind === 'odd' && Number(number) % 2 === 1) setTimeout(() => socket.end(), 20)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const pinned = { address: '127.0.0.1', port }
  const bench = await startBench(planOf([rule({ host: HOST, ports: [80], plain: true, connect: pinned })]), {
    deadlines: { head: 400, idle: 200, response: 400 },
  })
  const ask = (path: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({ host: '127.0.0.1', port: bench.ports.proxy })
      let got = ''
      const done = (): void => {
        clearTimeout(timer)
        socket.destroy()
        resolve(got)
      }
      const timer = setTimeout(done, 1500)
      socket.on('error', done)
      socket.on('close', done)
      socket.on('connect', () =>
        socket.write(`GET http://${HOST}${path} HTTP/1.1\r\nHost: ${HOST}\r\nConnection: close\r\n\r\n`),
      )
      socket.on('data', (bytes) => {
        got += bytes.toString('latin1')
      })
    })
  return {
    seeds: SEEDS.map((seed) => Buffer.from(seed, 'latin1')),
    make,
    run: async (inputs) => {
      queue = inputs
      // One after the other, so that the connection of an odd answer is the one that the next request may get.
      for (const index of inputs.keys()) {
        const odd = await ask(`/odd/${index}`)
        demand(odd === '' || /^HTTP\/1\.1 [2-9]\d\d /.test(odd), `an answer in HTTP: ${odd.slice(0, 60)}`)
        if (!odd.includes('urn:ambit:refused')) reached++
        let control = await ask(`/control/${index}`)
        // A busy machine, not a desync: that would be another answer, not none in time.
        if (control.startsWith('HTTP/1.1 504')) control = await ask(`/control/${index}`)
        demand(control.startsWith('HTTP/1.1 200'), `the next request is answered: ${control.slice(0, 80)}`)
        demand(control.endsWith(`\r\n\r\n<control ${index}>`), `with its own answer: ${control.slice(-80)}`)
      }
      bench.facts.length = 0
    },
    reached: () => reached,
    close: async () => {
      await bench.close()
      server.close()
    },
  }
}

const answer = (headers: string, body = ''): string => `HTTP/1.1 200 OK\r\n${headers}\r\n${body}`

const SEEDS = [
  answer('Content-Length: 5\r\n', 'hello'),
  answer('Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n'),
  // The beginning of another answer behind a whole one.
  answer('Content-Length: 5\r\n', 'helloHTTP/1.1 404 Planted\r\nX: '),
  answer('Content-Length: 5\r\n', `hello${answer('Content-Length: 4\r\n', 'evil')}`),
  answer('Content-Length: 5\r\n', 'helloHTTP/1.1 103 Early Hints\r\n\r\n'),
  `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n${answer('Content-Length: 0\r\n')}`,
  'HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nHTTP/1',
  'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n',
  'HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
]

const LINES = [
  'HTTP/1.1 200 OK',
  'HTTP/1.0 200 OK',
  'HTTP/1.1 200',
  'HTTP/1.1 204 No',
  'HTTP/1.1 304 No',
  'HTTP/1.1 100 Go',
  'HTTP/1.1 101 X',
  'HTTP/1.1 199 X',
  'HTTP/1.1 600 X',
  'HTTP/1.1 2000 X',
  'HTTP/2 200',
  'ICY 200 OK',
  'HTTP/1.1  200 OK',
  'HTTP/1.1 200 O\rK',
]
const HEADERS = [
  'Content-Length: 5',
  'Content-Length: 0',
  'Content-Length: 5, 5',
  'Content-Length: -1',
  'Content-Length: +5',
  'Content-Length : 5',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: gzip, chunked',
  'Transfer-Encoding: chunked, gzip',
  'Transfer-Encoding: identity',
  'Connection: close',
  'Connection: keep-alive',
  'Connection: Upgrade',
  'Upgrade: h2c',
  'X: a\rb',
  'X: a\nb',
  ' X: folded',
  'X: \x00',
  'Set-Cookie: a=b',
  'Trailer: X',
  'Content-Encoding: gzip',
  'constructor: 1',
]
const BODIES = [
  '',
  'hello',
  'helloextra',
  'hell',
  '5\r\nhello\r\n0\r\n\r\n',
  '5\nhello\n0\n\n',
  '05;x\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n',
  '0\r\n\r\n',
  '+5\r\nhello\r\n0\r\n\r\n',
  'helloHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<control',
  'helloHTTP/1.1 1',
  'helloHTTP/1.1 404 Planted\r\nX: ',
  'hello\r\n\r\nH',
]

/** Status lines, fields and bodies that do not belong together. */
function make(random: Random): Buffer {
  const pick = (list: readonly string[]): string => list[random(list.length)] ?? ''
  const line = random(3) === 0 ? pick(LINES) : 'HTTP/1.1 200 OK'
  const headers = Array.from({ length: 1 + random(3) }, () => `${pick(HEADERS)}\r\n`).join('')
  return Buffer.from(`${line}\r\n${headers}\r\n${pick(BODIES)}`, 'latin1')
}
