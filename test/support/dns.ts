/** A resolver that answers from a table and keeps what it was asked. */
import { createSocket } from 'node:dgram'

export interface DnsRecorder {
  /** Names asked for, lower case, in order. */
  readonly asked: string[]
  /** Addresses of a name; a function is called for every query, so that answers can change. */
  readonly zone: Map<string, readonly string[] | (() => readonly string[])>
  /** Names whose questions get no answer at all. */
  readonly silent: Set<string>
  close(): void
}

const TYPE_A = 1

/** Listens on port 53 of 127.0.0.1 of the lab. Names that it does not know are NXDOMAIN. */
export async function recordDns(): Promise<DnsRecorder> {
  const socket = createSocket('udp4')
  const recorder: DnsRecorder = { asked: [], zone: new Map(), silent: new Set(), close: () => socket.close() }
  socket.on('message', (query, peer) => {
    const { name, type, end } = readQuestion(query)
    recorder.asked.push(name)
    if (recorder.silent.has(name)) return
    const known = recorder.zone.get(name)
    const addresses = typeof known === 'function' ? known() : (known ?? [])
    socket.send(
      answer(query, end, type === TYPE_A ? addresses : [], known !== undefined),
      peer.port,
      peer.address,
    )
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.bind(53, '127.0.0.1', resolve)
  })
  socket.unref()
  return recorder
}

function readQuestion(query: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = []
  let at = 12
  while (query[at]) {
    const length = query[at] ?? 0
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += length + 1
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 }
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
