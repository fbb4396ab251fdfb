/** Moves bytes one way, with back-pressure: memory a stream is the backlog of its source and what its sink takes. */
import type { Readable, Transform, Writable } from 'node:stream'
import { Outlet, type Sink } from './backlog.ts'
import type { Taker } from './inlet.ts'
import type { Monitor } from './monitor.ts'
import type { WireSocket } from './wire.ts'

export interface UploadRules {
  readonly monitor: Monitor
  /** Counts bytes before they move; a reason cuts the stream. */
  charge(bytes: number): string | null
  cut(reason: string): void
  moved(bytes: number): void
}

/** Where an upload comes from: a stream, or a request of the inlet. */
export type UploadSource = {
  pause(): unknown
  resume(): unknown
  on(event: string, listener: (chunk: Buffer) => void): unknown
  off(event: string, listener: (chunk: Buffer) => void): unknown
  divert?(take: Taker | null): boolean
}

/** Where an upload goes: a stream, or a link to a server. */
export type UploadSink = Sink &
  Pick<Writable, 'writableNeedDrain'> & {
    on(event: 'drain', listener: () => void): unknown
    off(event: 'drain', listener: () => void): unknown
    readonly passes?: boolean
    pass?(from: WireSocket, bytes: number): boolean
  }

/**
 * Bytes on their way out. Each chunk is charged before it is written; while the session is stopped chunks are held,
 * not dropped, so that a frozen session can go on.
 */
export class UploadPump {
  readonly #source: UploadSource
  readonly #sink: UploadSink
  readonly #outlet: Outlet
  readonly #rules: UploadRules
  #held: Buffer[] = []
  #ended = false
  #done = false
  /** What follows is passed on natively. */
  #diverted = false
  #forget: (() => void) | null = null

  constructor(source: UploadSource, sink: UploadSink, rules: UploadRules) {
    this.#source = source
    this.#sink = sink
    this.#outlet = new Outlet(sink)
    this.#rules = rules
    source.on('data', this.#onData)
    source.on('end', this.#onEnd)
    sink.on('drain', this.#onDrain)
    this.#divert()
  }

  stop(): void {
    this.#done = true
    this.#held = []
    this.#outlet.discard()
    this.#forget?.()
    if (this.#diverted) this.#source.divert?.(null)
    this.#diverted = false
    this.#source.off('data', this.#onData)
    this.#source.off('end', this.#onEnd)
    this.#sink.off('drain', this.#onDrain)
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#held.length > 0 || this.#rules.monitor.stopped) this.#hold(chunk)
    else {
      this.#send(chunk)
      this.#divert()
    }
  }

  #divert(): void {
    if (this.#diverted || this.#done || this.#held.length > 0 || !this.#sink.passes) return
    this.#diverted = this.#source.divert?.((from, bytes) => this.#pass(from, bytes)) ?? false
  }

  /** The same questions as for a piece that comes through here, before any of it moves. */
  #pass(from: WireSocket, bytes: number): boolean {
    if (this.#done || !this.#sink.passes) return false
    if (this.#rules.monitor.stopped) {
      this.#source.pause()
      this.#forget ??= this.#rules.monitor.whenRunning(this.#release)
      return false
    }
    if (!this.#charge(bytes)) return false
    if (this.#sink.pass?.(from, bytes) === false) this.#source.pause()
    return true
  }

  readonly #onEnd = (): void => {
    // Left open: whoever watches the client's side breaks the other side off.
    if (brokenOff(this.#source)) return
    this.#ended = true
    if (this.#held.length === 0) this.#finish()
  }

  /** The sink may serve another upload after this one. */
  #finish(): void {
    this.#outlet.flush()
    this.stop()
    this.#sink.end()
  }

  readonly #onDrain = (): void => {
    if (this.#held.length === 0) this.#source.resume()
  }

  #hold(chunk: Buffer): void {
    this.#source.pause()
    this.#held.push(chunk)
    this.#forget ??= this.#rules.monitor.whenRunning(this.#release)
  }

  readonly #release = (): void => {
    this.#forget = null
    const held = this.#held
    this.#held = []
    for (const chunk of held) if (!this.#done) this.#send(chunk)
    if (this.#done) return
    if (this.#ended) return this.#finish()
    this.#divert()
    if (!this.#sink.writableNeedDrain) this.#source.resume()
  }

  #charge(bytes: number): boolean {
    const refused = this.#rules.charge(bytes)
    if (refused === null) {
      this.#rules.moved(bytes)
      return true
    }
    this.stop()
    this.#rules.cut(refused)
    return false
  }

  #send(chunk: Buffer): void {
    if (this.#charge(chunk.length) && !this.#outlet.write(chunk)) this.#source.pause()
  }
}

/** An HTTP/2 stream that its peer resets emits `end` like one that is whole; its server must not take it for that. */
function brokenOff(source: UploadSource): boolean {
  const stream = (source as { stream?: { aborted?: boolean; rstCode?: number } }).stream
  return stream !== undefined && (stream.aborted === true || (stream.rstCode ?? 0) !== 0)
}

/** Where an answer goes: a stream, or a reply of the inlet. */
export type AnswerSink = Sink & { on(event: 'drain', listener: () => void): unknown }

/** Bytes on their way in. */
export function pumpDown(source: Readable, sink: AnswerSink, moved: (bytes: number) => void): void {
  const outlet = new Outlet(sink)
  source.on('data', (chunk: Buffer) => {
    moved(chunk.length)
    if (!outlet.write(chunk)) source.pause()
  })
  source.on('end', () => outlet.end())
  sink.on('drain', () => source.resume())
}

/** The bytes of `source` as they come out of `transform`. Not `pipe`, which hands over each piece by itself. */
export function through<T extends Transform>(source: Readable, transform: T): T {
  pumpDown(source, transform, () => undefined)
  return transform
}
