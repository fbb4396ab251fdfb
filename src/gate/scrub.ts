/** Masks an injected secret that a server's answer echoes. Same length, so framing stays true. */
import { Transform, type TransformCallback } from 'node:stream'
import type { Injection } from './credential.ts'

const MASK = 0x2a

/** Emits `scrubbed` for each secret it masks. Keeps back at most the beginning of a secret at a chunk's end. */
export class BodyScrubber extends Transform {
  readonly #needles: readonly Buffer[]
  #tail: Buffer = Buffer.alloc(0)

  /** Null when there is nothing to look for, or the body is compressed: then only headers are looked at. */
  static for(injection: Injection | null, encoding: string | undefined): BodyScrubber | null {
    if (!injection || injection.needles.length === 0) return null
    return encoding === undefined || encoding === 'identity' ? new BodyScrubber(injection.needles) : null
  }

  private constructor(needles: readonly string[]) {
    super()
    this.#needles = needles.map((needle) => Buffer.from(needle))
  }

  override _transform(chunk: Buffer, _: BufferEncoding, done: TransformCallback): void {
    const bytes = this.#tail.length === 0 ? chunk : Buffer.concat([this.#tail, chunk])
    const keep = this.#mask(bytes)
    this.#tail = bytes.subarray(bytes.length - keep)
    done(null, bytes.subarray(0, bytes.length - keep))
  }

  override _flush(done: TransformCallback): void {
    done(null, this.#tail)
  }

  /** Masks every whole secret; returns how many last bytes may be the beginning of another. */
  #mask(bytes: Buffer): number {
    let keep = 0
    for (const needle of this.#needles) {
      for (let at = bytes.indexOf(needle); at !== -1; at = bytes.indexOf(needle, at + needle.length)) {
        bytes.fill(MASK, at, at + needle.length)
        this.emit('scrubbed')
      }
      keep = Math.max(keep, openEnd(bytes, needle))
    }
    return keep
  }
}

/** Length of the longest proper beginning of `needle` with which `bytes` ends. */
function openEnd(bytes: Buffer, needle: Buffer): number {
  for (let length = Math.min(needle.length - 1, bytes.length); length > 0; length--)
    if (bytes.subarray(bytes.length - length).equals(needle.subarray(0, length))) return length
  return 0
}
