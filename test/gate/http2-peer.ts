/** A peer that speaks HTTP/2 frame by frame, for what no library would send. */
import type { Socket } from 'node:net'

const u24 = (n: number): number[] => [n >> 16, (n >> 8) & 0xff, n & 0xff]

export const DATA = 0
export const HEADERS = 1
export const SETTINGS = 4
const PING = 6
export const END_HEADERS = 4
export const ACK = 1
/** Of no type that anybody knows: to be ignored (RFC 9113 §4.1). */
export const UNKNOWN = 0xbb

export const frame = (type: number, flags: number, stream: number, payload: Buffer): Buffer =>
  Buffer.concat([Buffer.from([...u24(payload.length), type, flags, 0, ...u24(stream)]), payload])

export const PREFACE = Buffer.concat([
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  frame(SETTINGS, 0, 0, Buffer.alloc(0)),
])

/** `method` / of `host`, HPACK literals without indexing. */
export const requestHead = (host: string, method: 'GET' | 'POST' = 'GET'): Buffer =>
  Buffer.concat([
    Buffer.from([method === 'GET' ? 0x82 : 0x83, 0x87, 0x84, 0x01, host.length]),
    Buffer.from(host),
  ])

/** Reads what comes and resolves once the other side has read all that was written before. */
export function pinger(socket: Socket): () => Promise<void> {
  let seen: Buffer = Buffer.alloc(0)
  let count = 0
  const waiting = new Map<number, () => void>()
  socket.on('data', (chunk: Buffer) => {
    seen = Buffer.concat([seen, chunk])
    const sent = frame(PING, ACK, 0, Buffer.alloc(8)).subarray(0, 9)
    for (let at = seen.indexOf(sent); at !== -1 && at + 17 <= seen.length; at = seen.indexOf(sent, at + 17))
      waiting.get(seen.readUInt32BE(at + 9))?.()
    seen = Buffer.from(seen.subarray(-16))
  })
  return () => {
    const payload = Buffer.alloc(8)
    payload.writeUInt32BE(++count)
    return new Promise((resolve) => {
      waiting.set(count, resolve)
      socket.write(frame(PING, 0, 0, payload))
    })
  }
}
