/** Heads at the explicit proxy: CONNECT, absolute form, SOCKS. Nothing is dialled but what the profile names. */
import { connect, createServer, type AddressInfo } from 'node:net'
import { planOf, rule, startBench } from '../test/gate/harness.ts'
import { demand, type LiveTarget } from './live.ts'

export async function startConnectHeads(): Promise<LiveTarget> {
  const heard: Buffer[] = []
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => {
      heard.push(bytes)
      socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const asked: string[] = []
  let reached = 0
  const network = [
    rule({ host: 'good.test', ports: [80], plain: true, connect: { address: '127.0.0.1', port } }),
    rule({ host: 'far.test' }),
  ]
  const bench = await startBench(planOf(network), {
    deadlines: { head: 500, idle: 500, response: 500 },
    resolve: async (name) => {
      asked.push(name)
      return []
    },
  })
  const send = (input: Buffer): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect({ host: '127.0.0.1', port: bench.ports.proxy })
      let got = ''
      const done = (): void => {
        socket.destroy()
        resolve(got)
      }
      let timer = setTimeout(done, 700)
      socket.on('error', done)
      socket.on('close', done)
      socket.on('connect', () => socket.write(input))
      socket.on('data', (bytes) => {
        got += bytes.toString('latin1')
        clearTimeout(timer)
        timer = setTimeout(done, 25)
      })
    })
  return {
    seeds: SEEDS.map((seed) => Buffer.from(seed, 'latin1')),
    run: async (inputs) => {
      const from = bench.facts.length
      const answers = await Promise.all(inputs.map(send))
      for (const answer of answers)
        demand(answer === '' || answer.startsWith('HTTP/1.1 '), `an answer in HTTP: ${answer.slice(0, 40)}`)
      const alive = await send(Buffer.from('CONNECT good.test:80 HTTP/1.1\r\nHost: good.test:80\r\n\r\n'))
      demand(alive.startsWith('HTTP/1.1 200'), 'the proxy serves on')
      const decided = bench.facts.slice(from).filter((fact) => fact.k === 'http.request')
      const arrived = heard.splice(0)
      demand(
        arrived.length <= decided.length,
        `${arrived.length} requests arrived, ${decided.length} were decided`,
      )
      for (const bytes of arrived)
        demand(
          /^[A-Z-]+ \/\S* HTTP\/1\.1\r\nHost: good\.test\r\n/.test(bytes.toString('latin1')),
          bytes.toString('latin1', 0, 80),
        )
      demand(
        asked.every((name) => name === 'far.test'),
        `asked for ${asked.join()}`,
      )
      reached += arrived.length
      bench.facts.length = 0
    },
    reached: () => reached,
    close: async () => {
      await bench.close()
      server.close()
    },
  }
}

const SEEDS = [
  'CONNECT good.test:80 HTTP/1.1\r\nHost: good.test:80\r\n\r\nGET /a HTTP/1.1\r\nHost: good.test\r\n\r\n',
  'CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n\x16\x03\x01',
  'CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n',
  'CONNECT [::1]:80 HTTP/1.0\r\n\r\n',
  'CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: good.test\r\n\r\n',
  'GET http://good.test/a HTTP/1.1\r\nHost: good.test\r\n\r\n',
  'GET http://good.test:80/a?b HTTP/1.1\r\nHost: good.test\r\nProxy-Connection: close\r\n\r\nGET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n',
  'POST http://good.test/a HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\n\r\nhello',
  'GET http://user@good.test/ HTTP/1.1\r\nHost: good.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n',
  '\x05\x01\x00\x05\x01\x00\x03\x09good.test\x00\x50',
  '\x04\x01\x00\x50\x00\x00\x00\x01\x00good.test\x00',
]
