/** Masks an injected secret that a server's answer echoes. Same length, so framing stays true. */
import { Transform, type TransformCallback } from 'node:stream'
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib'
import type { Injection } from './credential.ts'

const MASK = 0x2a
/** What looks like the beginning of a secret waits this long for the rest. */
const HELD_MS = 200
/** Bytes of a secret that may pass when the rest comes later than that; a quarter of it at most. */
const MOST_RELEASED = 4

/** Masks secrets in bytes that come piece by piece. Keeps back at most the beginning of a secret at a piece's end. */
export class Masker {
  readonly #needles: readonly Buffer[]
  readonly #onMasked: () => void
  #tail: Buffer = Buffer.alloc(0)
  /** First bytes of the tail that were let go already: they are compared, not passed on again. */
  #released = 0

  constructor(needles: readonly string[], onMasked: () => void) {
    this.#needles = needles.map((needle) => Buffer.from(needle))
    this.#onMasked = onMasked
  }

  /** What may pass of the bytes so far. Masks in place. */
  feed(chunk: Buffer): Buffer {
    const bytes = this.#tail.length === 0 ? chunk : Buffer.concat([this.#tail, chunk])
    const end = bytes.length - this.#mask(bytes)
    const passed = this.#released
    this.#tail = bytes.subarray(end)
    this.#released = Math.max(0, passed - end)
    return bytes.subarray(passed, Math.max(passed, end))
  }

  /** What is kept back, if it is short enough for a beginning that came by chance; a secret that goes on is masked in its rest. */
  release(): Buffer {
    const most = Math.min(MOST_RELEASED, ...this.#needles.map((needle) => needle.length >> 2))
    const passed = this.#released
    if (this.#tail.length > most) return this.#tail.subarray(0, 0)
    this.#released = this.#tail.length
    return this.#tail.subarray(passed)
  }

  /** What is kept back when nothing follows. */
  end(): Buffer {
    const rest = this.#tail.subarray(this.#released)
    this.#tail = Buffer.alloc(0)
    this.#released = 0
    return rest
  }

  get holding(): boolean {
    return this.#tail.length > this.#released
  }

  /** Masks every whole secret; returns how many last bytes may be the beginning of another. */
  #mask(bytes: Buffer): number {
    let keep = 0
    for (const needle of this.#needles) {
      for (let at = bytes.indexOf(needle); at !== -1; at = bytes.indexOf(needle, at + needle.length)) {
        bytes.fill(MASK, at, at + needle.length)
        this.#onMasked()
      }
      keep = Math.max(keep, openEnd(bytes, needle))
    }
    return keep
  }
}

/** Emits `scrubbed` for each secret it masks. */
export class BodyScrubber extends Transform {
  readonly #masker: Masker
  #timer: NodeJS.Timeout | undefined

  /** Null when there is nothing to look for. */
  static for(injection: Injection | null): BodyScrubber | null {
    return injection && injection.needles.length > 0 ? new BodyScrubber(injection.needles) : null
  }

  private constructor(needles: readonly string[]) {
    super()
    this.#masker = new Masker(needles, () => this.emit('scrubbed'))
  }

  override _transform(chunk: Buffer, _: BufferEncoding, done: TransformCallback): void {
    clearTimeout(this.#timer)
    const bytes = this.#masker.feed(chunk)
    // A message of a stream may end like the beginning of a secret, and the next one wait for its answer.
    if (this.#masker.holding) this.#timer = setTimeout(() => this.push(this.#masker.release()), HELD_MS)
    done(null, bytes)
  }

  override _flush(done: TransformCallback): void {
    clearTimeout(this.#timer)
    done(null, this.#masker.end())
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#timer)
    done(error)
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

/**
 * Whether the body arrives as the client will get it. A transfer coding other than `chunked` is ours to undo, and Node
 * undoes none: its label would stay here while the bytes go on, unread.
 */
export const isPlainTransfer = (coding: string | undefined): boolean =>
  coding === undefined || coding.trim().toLowerCase() === 'chunked'

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
