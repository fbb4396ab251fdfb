/** Opens bodies that a server compressed although it was asked not to: an echo of the key in them would pass unseen. */
import type { Transform } from 'node:stream'
import {
  constants,
  createBrotliDecompress,
  createGunzip,
  createInflate,
  createZstdDecompress,
  type Zlib,
} from 'node:zlib'
import type { Injection } from './credential.ts'

/** A decoder, with the bytes that it was given so far. */
export type Opener = Transform & Zlib

const DECODERS: Readonly<Record<string, () => Opener>> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  // Without the "large window" extension: 16 MiB at most (RFC 7932 §9.1).
  br: createBrotliDecompress,
  // The window of this content coding is 8 MB at most (RFC 9659 §3); the decoder's own bound is 128.
  zstd: () => createZstdDecompress({ params: { [constants.ZSTD_d_windowLogMax]: 23 } }),
}

/** Bodies opened at once: each keeps a window. Programs that ask for plain answers get few that are not. */
const MOST_OPEN = 16
/** Up to this an answer may be as compressible as it likes. */
const FREE_BYTES = 64 << 20
/** Beyond it: text and logs stay well below, bombs lie at a thousand (gzip) to millions (br, zstd). */
const MOST_RATIO = 250

/** The decoders of one gate. */
export class Openers {
  #open = 0

  /**
   * What opens the body, or null when there is nothing to open. The caller destroys it with the exchange.
   *
   * @throws Error for an encoding that cannot be opened; such an answer must not reach the client.
   */
  for(injection: Injection | null, encoding: string | undefined, status: number): Opener | null {
    const coding = encoding?.trim().toLowerCase() ?? 'identity'
    if (!injection || injection.needles.length === 0 || coding === 'identity' || coding === '') return null
    const decoder = Object.hasOwn(DECODERS, coding) ? DECODERS[coding] : undefined
    // Part of a compressed body opens nowhere but at the client.
    if (!decoder || status === 206) throw new Error('an encoding that cannot be looked into')
    if (this.#open >= MOST_OPEN) throw new Error('too many bodies are being opened')
    this.#open++
    return decoder().once('close', () => this.#open--)
  }
}

/** Whether a body of `bytes` so far holds so little of its own that opening it serves to keep the gate busy. */
export const isSwollen = (opener: Opener, bytes: number): boolean =>
  bytes > FREE_BYTES && bytes > opener.bytesWritten * MOST_RATIO

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
