/** The frames that a WebSocket server sends (RFC 6455 §5.2), as far as masking an echoed credential needs them. */
import { Transform, type TransformCallback } from 'node:stream'
import type { Injection } from './credential.ts'
import { Masker } from './scrub.ts'

/**
 * Masks a secret within a frame; frames keep their lengths. Emits `scrubbed` for each. Frames of which the inside cannot
 * be read (masked, or with bits of an extension that was not agreed on) are an error.
 */
export class FrameScrubber extends Transform {
  readonly #masker: Masker
  #head: Buffer = Buffer.alloc(0)
  /** Bytes of the current payload still to come. */
  #left = 0
  /** What goes on of the piece that is read. */
  #out: Buffer[] = []

  /** Null when there is nothing to look for. */
  static for(injection: Injection | null): FrameScrubber | null {
    return injection && injection.needles.length > 0 ? new FrameScrubber(injection.needles) : null
  }

  private constructor(needles: readonly string[]) {
    // Of what comes out one piece waits, and then no more is taken in.
    super({ readableHighWaterMark: 1 })
    this.#masker = new Masker(needles, () => this.emit('scrubbed'))
  }

  override _transform(chunk: Buffer, _: BufferEncoding, done: TransformCallback): void {
    try {
      for (let rest = chunk; rest.length > 0; )
        rest = this.#left === 0 ? this.#readHead(rest) : this.#readPayload(rest)
    } catch (error) {
      this.push(this.#take())
      return done(error as Error)
    }
    done(null, this.#take())
  }

  /** In one piece: a frame may be two bytes, and each piece costs hundreds. */
  #take(): Buffer {
    const out = Buffer.concat(this.#out)
    this.#out = []
    return out
  }

  /** Returns what follows the head, or nothing while the head is not whole. */
  #readHead(bytes: Buffer): Buffer {
    const before = this.#head.length
    const head = before === 0 ? bytes : Buffer.concat([this.#head, bytes])
    const length = headLength(head)
    if (length === null || head.length < length) {
      this.#head = Buffer.from(head)
      return bytes.subarray(bytes.length)
    }
    this.#head = Buffer.alloc(0)
    this.#left = payloadLength(head)
    this.#out.push(head.subarray(0, length))
    return bytes.subarray(length - before)
  }

  #readPayload(bytes: Buffer): Buffer {
    const piece = bytes.subarray(0, this.#left)
    this.#left -= piece.length
    this.#out.push(this.#masker.feed(piece))
    // A frame ends here: nothing of it may be kept back, or its message would never be whole.
    if (this.#left === 0) this.#out.push(this.#masker.end())
    return bytes.subarray(piece.length)
  }
}

/** Null before the second byte, which tells. @throws when the payload could not be read. */
function headLength(head: Buffer): number | null {
  const [first = 0, second] = head
  if (first & 0x70) throw new Error('a frame of an extension')
  if (second === undefined) return null
  if (second & 0x80) throw new Error('a masked frame of a server')
  return second < 126 ? 2 : second === 126 ? 4 : 10
}

function payloadLength(head: Buffer): number {
  const short = (head[1] ?? 0) & 0x7f
  if (short < 126) return short
  const length = short === 126 ? head.readUInt16BE(2) : Number(head.readBigUInt64BE(2))
  if (!Number.isSafeInteger(length)) throw new Error('a frame without an end')
  return length
}
