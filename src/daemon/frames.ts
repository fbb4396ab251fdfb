/** The wire of the daemon's socket: u32le length, then that many bytes of JSON, at most 1 MiB. */
import { AmbitError } from '../lib/errors.ts'

/** Longest body, bytes. */
export const MAX_FRAME = 1 << 20
const HEAD = 4
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** One message as it goes out. Throws TypeError when it is too large: the caller bounds what it sends. */
export function encodeFrame(message: unknown): Buffer {
  const body = Buffer.from(JSON.stringify(message))
  if (body.length > MAX_FRAME) throw new TypeError('message too large for the daemon link')
  const frame = Buffer.allocUnsafe(HEAD + body.length)
  frame.writeUInt32LE(body.length, 0)
  frame.set(body, HEAD)
  return frame
}

/** Cuts a byte stream into messages. Throws ERR_DAEMON_PROTOCOL at the first byte that no peer of ours would send. */
export class FrameReader {
  #parts: Buffer[] = []
  #have = 0

  /** Takes the next bytes, gives the messages that they complete. */
  push(chunk: Buffer): unknown[] {
    this.#parts.push(chunk)
    this.#have += chunk.length
    const messages: unknown[] = []
    for (let body = this.#take(); body; body = this.#take()) messages.push(parseCanonical(body))
    return messages
  }

  #take(): Buffer | undefined {
    if (this.#have < HEAD) return undefined
    const length = this.#join(HEAD).readUInt32LE(0)
    if (length === 0 || length > MAX_FRAME) throw malformed(`frame of ${length} bytes`)
    if (this.#have < HEAD + length) return undefined
    const all = this.#join(HEAD + length)
    this.#parts = [all.subarray(HEAD + length)]
    this.#have -= HEAD + length
    return all.subarray(HEAD, HEAD + length)
  }

  /** Makes the first `length` bytes contiguous. Chunks are joined only when needed, so slow peers cost no copies. */
  #join(length: number): Buffer {
    const first = this.#parts[0] ?? Buffer.alloc(0)
    if (first.length >= length) return first
    const all = Buffer.concat(this.#parts)
    this.#parts = [all]
    return all
  }
}

/**
 * Both ends write JSON.stringify's form, so any other spelling (duplicate keys, white space, `1e3`) is not from a peer
 * of ours; two readers could understand it differently, so nobody reads it.
 */
function parseCanonical(body: Buffer): unknown {
  let text: string
  let value: unknown
  try {
    text = utf8.decode(body)
    value = JSON.parse(text)
  } catch {
    throw malformed('not JSON in UTF-8')
  }
  if (JSON.stringify(value) !== text) throw malformed('JSON in another spelling than JSON.stringify gives')
  if (/\\ud[89a-f]/.test(text)) throw malformed('lone surrogate')
  return value
}

/** The error that closes a link. */
export function malformed(why: string): AmbitError {
  return new AmbitError('ERR_DAEMON_PROTOCOL', 'the daemon link was closed', why)
}
