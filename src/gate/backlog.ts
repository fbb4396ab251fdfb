/**
 * What waits, in few pieces.
 *
 * Node bounds what waits by its bytes and keeps each piece as it came: over HTTP/2 with the whole network read that it
 * lies in, otherwise as some 300 bytes of its own. Who sends a body byte by byte to somebody that does not read would
 * have the gate keep gigabytes for a megabyte. So whatever is paused here copies small pieces together.
 */
import type { Readable } from 'node:stream'

const LEAST_ROOM = 4096
const MOST_ROOM = 65_536
/** A piece may wait as it came when the memory that it lies in is at most so many times its bytes. */
const MOST_KEPT = 4

const keepsLittle = (chunk: Buffer): boolean => chunk.buffer.byteLength <= MOST_KEPT * chunk.length

/** Bytes in the order in which they came, close together. */
export class Backlog {
  length = 0
  #pieces: Buffer[] = []
  #room: Buffer | null = null
  #used = 0

  add(chunk: Buffer): void {
    const first = this.length === 0
    this.length += chunk.length
    // One piece that keeps little else may stay as it is.
    if (first && keepsLittle(chunk)) this.#pieces.push(chunk)
    else this.#copy(chunk)
  }

  /** All of it. */
  take(): readonly Buffer[] {
    if (this.#room) this.#pieces.push(this.#room.subarray(0, this.#used))
    const pieces = this.#pieces
    this.#pieces = []
    this.#room = null
    this.length = 0
    return pieces
  }

  #copy(chunk: Buffer): void {
    for (let at = 0; at < chunk.length; ) {
      const room = this.#roomFor(chunk.length - at)
      const copied = chunk.copy(room, this.#used, at)
      this.#used += copied
      at += copied
    }
  }

  /** Room for at least a byte. */
  #roomFor(bytes: number): Buffer {
    if (this.#room && this.#used < this.#room.length) return this.#room
    if (this.#room) this.#pieces.push(this.#room)
    this.#used = 0
    this.#room = Buffer.allocUnsafeSlow(Math.min(MOST_ROOM, Math.max(LEAST_ROOM, bytes, this.length)))
    return this.#room
  }
}

const GATHERED = Symbol('gathered')
/** Large pieces that may wait as they came: a stream that stopped at the first one would pass bulk more slowly. */
const MOST_PIECES = 8
/** What all gathered streams of a gate may keep together, while those that should read them do not. */
const MOST_WAITING = 128 << 20
let waitingBytes = 0

/**
 * Has a stream that somebody else fills by `push` keep what comes while nobody reads as a backlog. Its source is told to
 * stop; what still comes is what was under way: a window of HTTP/2, a read of a socket. The stream with which all of
 * them would keep more than `MOST_WAITING` gives no more: `crowded` is called and breaks off what it is part of.
 */
export function gather(
  stream: Readable & { [GATHERED]?: true },
  crowded: () => unknown = () => stream.destroy(),
): void {
  if (stream[GATHERED]) return
  stream[GATHERED] = true
  const push = stream.push.bind(stream)
  const waiting = new Backlog()
  let pieces = 0
  let counted = 0
  let broken = false
  const count = (bytes: number): void => {
    waitingBytes += bytes - counted
    counted = bytes
  }
  const countAll = (): void => count(stream.readableLength + waiting.length)
  const give = (): void => {
    if (waiting.length > 0) for (const piece of waiting.take()) push(piece)
  }
  const breakOff = (): void => {
    broken = true
    // Not inside its own push.
    setImmediate(crowded)
  }
  stream.push = (chunk: Buffer | null): boolean => {
    if (chunk === null) {
      // What came since was dropped: no end tells a reader that this was all.
      if (broken && !stream.destroyed) return false
      give()
      return push(null)
    }
    // An empty piece says that a read has ended: Node asks for no other before it.
    if (chunk.length === 0) return push(chunk)
    if (broken || stream.destroyed) return true
    if (stream.readableLength === 0) pieces = 0
    const passes = stream.readableFlowing || (keepsLittle(chunk) && pieces++ < MOST_PIECES)
    const direct = waiting.length === 0 && passes
    if (!direct) waiting.add(chunk)
    const room = direct && push(chunk)
    if (stream.readableLength + waiting.length + counted > 0) countAll()
    if (counted > 0 && waitingBytes > MOST_WAITING) breakOff()
    return room
  }
  // Before anything flows again; what it still holds goes at once.
  stream.on('resume', () => {
    give()
    count(0)
  })
  stream.on('pause', () => {
    if (!broken) countAll()
  })
  stream.once('close', () => {
    waiting.take()
    broken = true
    count(0)
  })
}

/** Called once, when bytes are out of a sink's hands: sent, dropped, or with the error that kept them. */
export type Done = (error?: Error | null) => void

export interface Sink {
  write(chunk: Buffer, encoding?: undefined, done?: Done): boolean
  end(): unknown
}

/** Pieces from this on are written as they are: a sink takes few before it is full. */
const LARGE = 8192

/** Writes to a sink; while it is busy small pieces are put together. */
export class Outlet {
  readonly #sink: Sink
  readonly #waiting = new Backlog()
  /** Writes that are not done. */
  #under = 0

  constructor(sink: Sink) {
    this.#sink = sink
  }

  /** False: wait for the sink's `drain`. */
  write(chunk: Buffer): boolean {
    if (chunk.length === 0) return true
    if (chunk.length >= LARGE) this.flush()
    if (chunk.length >= LARGE || this.#under === 0) return this.#write(chunk)
    this.#waiting.add(chunk)
    return this.#waiting.length < LARGE || this.flush()
  }

  /** Hands over what waits. */
  flush(): boolean {
    let room = true
    if (this.#waiting.length > 0) for (const piece of this.#waiting.take()) room = this.#write(piece)
    return room
  }

  end(): void {
    this.flush()
    this.#sink.end()
  }

  /** Forgets what waits. */
  discard(): void {
    this.#waiting.take()
  }

  #write(chunk: Buffer): boolean {
    this.#under++
    return this.#sink.write(chunk, undefined, this.#written)
  }

  readonly #written = (error?: Error | null): void => {
    this.#under--
    if (error) this.discard()
    else if (this.#under === 0) this.flush()
  }
}
