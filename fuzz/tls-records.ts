/** TLS records at the gate's native connections: of a client that must say hello again, and of a server that we ask. */
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { Wire } from '../src/gate/wire.ts'
import { helloWithoutKey, planOf, rule, startBench, testCa } from '../test/gate/harness.ts'
import { demand, type LiveTarget } from './live.ts'

const HOST = 'good.test'
const QUIET_MS = 30

export async function startTlsRecords(): Promise<LiveTarget> {
  const bench = await startBench(planOf([rule({ host: HOST })]))
  const wire = new Wire()
  const target = wire.target(new X509Certificate(testCa.issue([HOST]).cert).raw)
  const hello = await helloWithoutKey(HOST)
  let input: Buffer = Buffer.alloc(0)
  let understood = 0
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => socket.end(input))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  const asServer = async (): Promise<void> => {
    const socket = wire.connect('127.0.0.1', port, HOST, target)
    await new Promise((resolve) => socket.once('close', resolve))
    if (socket.ending === 'tls') understood++
  }
  const asClient = async (): Promise<void> => {
    const { addresses } = await bench.lookup(HOST)
    bench.aim(addresses[0] ?? HOST, 443)
    const socket = connect(bench.ports.tcp, '127.0.0.1').on('error', () => undefined)
    socket.write(hello)
    const [retry] = (await once(socket, 'data')) as [Buffer]
    demand(retry[0] === 22, 'it asks for another hello')
    socket.write(input)
    await ended(socket)
  }
  return {
    seeds: SEEDS.map((seed) => Buffer.from(seed, 'hex')),
    // A process that ends here is the finding: rustls is driven by its buffers' places.
    run: async (inputs) => {
      for (input of inputs) {
        await asServer()
        await asClient()
      }
    },
    reached: () => understood,
    close: async () => {
      wire.stop()
      server.close()
      await bench.close()
    },
  }
}

/** Until the gate ends the connection, or waits for more. */
async function ended(socket: Socket): Promise<void> {
  const closed = new Promise((resolve) => socket.resume().once('close', resolve))
  await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, QUIET_MS))])
  socket.destroy()
}

const SEEDS = [
  '160303000101' + '170303000100',
  '160303000102' + '170303000100',
  '160303000102' + '160303000100' + '15030300020100',
  '140303000101' + '160303000401000000' + '1603030001ff',
  '16030300080200000402000000' + '170303000100',
  '15030300020228',
  '1603030000' + '1603030000' + '1603030000',
  '17030340010000',
]
