/** A resolver that answers from a table and keeps what it was asked. */
import { createSocket } from 'node:dgram'
import { nameAt } from '../fixtures/servers/dns-message.ts'

export interface DnsRecorder {
  readonly port: number
  /** Names asked for, lower case, in order. */
  readonly asked: string[]
  /** Addresses of a name; a function is called for every query, so that answers can change. */
  readonly zone: Map<string, readonly string[] | (() => readonly string[])>
  /** Names whose questions get no answer at all. */
  readonly silent: Set<string>
  close(): void
}

const TYPE_A = 1

/** Listens on 127.0.0.1, in a lab on port 53. Names that it does not know are NXDOMAIN. */
export async function recordDns(port = 53): Promise<DnsRecorder> {
  const socket = createSocket('udp4')
  const recorder = {
    asked: [] as string[],
    zone: new Map() as DnsRecorder['zone'],
    silent: new Set<string>(),
  }
  socket.on('message', (query, peer) => {
    const { name: spelled, end } = nameAt(query, 12)
    const name = spelled.toLowerCase()
    recorder.asked.push(name)
    if (recorder.silent.has(name)) return
    const known = recorder.zone.get(name)
    const addresses = typeof known === 'function' ? known() : (known ?? [])
    socket.send(
      answer(query, end + 4, query.readUInt16BE(end) === TYPE_A ? addresses : [], known !== undefined),
      peer.port,
      peer.address,
    )
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.bind(port, '127.0.0.1', resolve)
  })
  socket.unref()
  return { ...recorder, port: socket.address().port, close: () => socket.close() }
}

function answer(query: Buffer, end: number, addresses: readonly string[], known: boolean): Buffer {
  const header = Buffer.from(query.subarray(0, 12))
  header.writeUInt16BE(known ? 0x8580 : 0x8583, 2)
  header.writeUInt16BE(1, 4)
  header.writeUInt16BE(addresses.length, 6)
  header.writeUInt32BE(0, 8)
  const records = addresses.map((address) =>
    Buffer.from([0xc0, 12, 0, TYPE_A, 0, 1, 0, 0, 0, 0, 0, 4, ...address.split('.').map(Number)]),
  )
  return Buffer.concat([header, query.subarray(12, end), ...records])
}
