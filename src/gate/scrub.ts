/** Masks an injected secret that a server's answer echoes. Same length, so framing stays true. */
import { Transform, type TransformCallback } from 'node:stream'
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

/** A whole body's pieces without the secrets in them; `onMasked` is called for each. Masks in place. */
export function masked(
  pieces: readonly Buffer[],
  injection: Injection | null,
  onMasked: () => void,
): readonly Buffer[] {
  if (!injection || injection.needles.length === 0) return pieces
  const masker = new Masker(injection.needles, onMasked)
  return [...pieces.map((piece) => masker.feed(piece)), masker.end()].filter(({ length }) => length > 0)
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
    // Of what comes out one piece waits, and then no more is taken in.
    super({ readableHighWaterMark: 1 })
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

/**
 * Whether the body arrives as the client will get it. A transfer coding other than `chunked` is ours to undo, and Node
 * undoes none: its label would stay here while the bytes go on, unread.
 */
export const isPlainTransfer = (coding: string | undefined): boolean =>
  coding === undefined || coding.trim().toLowerCase() === 'chunked'
