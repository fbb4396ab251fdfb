/** Masks an injected secret that a server's answer echoes. Same length, so framing stays true. */
import { Transform, type TransformCallback } from 'node:stream'
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib'
import type { Injection } from './credential.ts'

const MASK = 0x2a

/** Emits `scrubbed` for each secret it masks. Keeps back at most the beginning of a secret at a chunk's end. */
export class BodyScrubber extends Transform {
  readonly #needles: readonly Buffer[]
  #tail: Buffer = Buffer.alloc(0)

  /** Null when there is nothing to look for. */
  static for(injection: Injection | null): BodyScrubber | null {
    return injection && injection.needles.length > 0 ? new BodyScrubber(injection.needles) : null
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

const DECODERS: Readonly<Record<string, () => Transform>> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
  zstd: createZstdDecompress,
}

/**
 * What opens a body that the server compressed although it was asked not to: the client may choose a path that does,
 * and an echo in it would pass unseen. Null: nothing to open.
 *
 * @throws Error for an encoding that cannot be opened; such an answer must not reach the client.
 */
export function openerFor(
  injection: Injection | null,
  encoding: string | undefined,
  status: number,
): Transform | null {
  const coding = encoding?.trim().toLowerCase() ?? 'identity'
  if (!injection || injection.needles.length === 0 || coding === 'identity' || coding === '') return null
  const decoder = Object.hasOwn(DECODERS, coding) ? DECODERS[coding] : undefined
  // Part of a compressed body opens nowhere but at the client.
  if (!decoder || status === 206) throw new Error('an encoding that cannot be looked into')
  return decoder()
}

/** A head whose body will be opened on the way. */
export function withoutCoding(headers: readonly string[]): string[] {
  return headers.flatMap((name, at) => {
    const coding = at % 2 === 0 && /^content-(?:encoding|length)$/i.test(name)
    return at % 2 === 1 || coding ? [] : [name, headers[at + 1] ?? '']
  })
}

/** Whether an answer has a body at all (RFC 9110 §6.4.1). */
export const hasBody = (method: string, status: number): boolean =>
  method !== 'HEAD' && status !== 204 && status !== 304
