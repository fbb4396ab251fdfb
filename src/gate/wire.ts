/**
 * TLS connections whose bytes are read, decrypted, encrypted and sent by native code (native/node/src/wire). What is
 * read stays over there until it is asked for, so that a body can be passed on without coming through here.
 *
 * Only what is usual goes this way: TLS 1.3 that carries HTTP/1.1. Node's own TLS has all else.
 */
import { EventEmitter } from 'node:events'
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { native, type NativeWire } from '../lib/native.ts'
import { DROPPED_RESPONSE } from './outbound.ts'

/** Events of one turn; more come in further calls. */
const MOST_EVENTS = 256
/** The largest piece that is asked for at once. */
const MOST_READ = 65_536

// The numbers of native/node/src/wire/mod.rs.
const SECURE = 1
const DATA = 2
const END = 3
const DRAIN = 4
const CLOSE = 5
const FINISH = 6
const WAIT = 1
const GONE = -1
const UNUSUAL = -2

/** The words for each status, by its number; none: ''. */
const TITLES = Array.from({ length: 600 }, (_, status) => STATUS_CODES[status] ?? '')
/** Status, bytes of its fields and bytes of its body, of the answer that went to a client last. */
const told = new Int32Array(3)

/** Why a connection is over, by the numbers of native/node/src/wire/connection.rs. */
const ENDINGS = ['closed', 'distrusted', 'tls', 'broken', 'unknown'] as const
export type Ending = (typeof ENDINGS)[number]

/** What a gate's HTTP needs of a connection: a socket of Node's has it, and a `WireSocket`. */
export type Pipe = EventEmitter &
  Pick<
    Socket,
    'destroyed' | 'writable' | 'writableNeedDrain' | 'bytesRead' | 'cork' | 'uncork' | 'destroySoon'
  > & {
    setTimeout(ms: number): unknown
    write(chunk: Buffer | string, encoding?: 'latin1', done?: (error?: Error | null) => void): boolean
    end(): unknown
    destroy(): unknown
    pause(): unknown
    resume(): unknown
    unshift(chunk: Buffer): void
  }

/** What went from a server to a client without coming through here. */
export interface Passed {
  readonly status: number
  /** Of the fields that came, as lines. */
  readonly headBytes: number
  readonly bodyBytes: number
}

/** The native connections of one gate. */
export class Wire {
  readonly #native: NativeWire
  readonly #events = new Int32Array(3 * MOST_EVENTS)
  readonly #sockets = new Map<number, WireSocket>()

  constructor() {
    this.#native = new (native().Wire)((count) => this.#turn(count), this.#events)
    this.#native.answers([...DROPPED_RESPONSE], TITLES)
  }

  /** What a client would get if exactly these bytes were a server's answer; null where llhttp has to read them. */
  rewritten(bytes: Buffer): Buffer | null {
    return this.#native.rewritten(bytes)
  }

  /** A certificate to show, with its key (PEM). Its number, for `accept`. */
  certificate(certificate: string, key: string): number {
    return this.#native.certificate(certificate, key)
  }

  forgetCertificate(certificate: number): void {
    this.#native.forgetCertificate(certificate)
  }

  /** A server: who shows `leaf` (DER) and can sign with its key. Its number, for `connect`. */
  target(leaf: Uint8Array): number {
    return this.#native.target(leaf)
  }

  forgetTarget(target: number): void {
    this.#native.forgetTarget(target)
  }

  /**
   * Takes an accepted socket over, of which `first` was read: it must not be read any more. It stays open until it is
   * destroyed, and lives as long as the connection does.
   *
   * @throws Error when the handshake fails at its first bytes.
   */
  accept(socket: Socket, certificate: number, first: Buffer): WireSocket {
    const { fd } = handleOf(socket)
    return this.#add(this.#native.accept(fd, certificate, first))
  }

  /** Connects to exactly this address. Emits `secure`, or `close`. @throws Error */
  connect(address: string, port: number, host: string, target: number): WireSocket {
    return this.#add(this.#native.connect(address, port, host, target))
  }

  stop(): void {
    this.#native.stop()
    for (const socket of this.#sockets.values()) socket.closed('closed')
  }

  #add(id: number): WireSocket {
    const socket = new WireSocket(this.#native, id, () => this.#sockets.delete(id))
    this.#sockets.set(id, socket)
    return socket
  }

  #turn(count: number): void {
    const events = this.#events
    for (let at = 0; at < 3 * count; at += 3) {
      const socket = this.#sockets.get(events[at] ?? 0)
      if (!socket) continue
      try {
        tell(socket, events[at + 1] ?? 0, events[at + 2] ?? 0)
      } catch (error) {
        // As from any other callback: it ends the process, but not in the middle of native code.
        process.nextTick(() => {
          throw error
        })
      }
    }
  }
}

function tell(socket: WireSocket, event: number, argument: number): void {
  if (event === DATA) socket.arrived(argument)
  else if (event === DRAIN) socket.drained()
  else if (event === END) socket.ended()
  else if (event === SECURE) socket.emit('secure')
  else if (event === FINISH) socket.emit('finish')
  else if (event === CLOSE) socket.closed(ENDINGS[argument] ?? 'broken')
}

/** Node shows the descriptor of a socket on its handle only. */
interface Handle {
  readonly fd: number
  readStop(): void
}

/** The handle of a connected socket. @throws TypeError when it has none. */
export function handleOf(socket: Socket): Handle {
  const handle = (socket as unknown as { _handle?: Partial<Handle> | null })._handle
  if (typeof handle?.fd !== 'number' || handle.fd < 0 || typeof handle.readStop !== 'function')
    throw new TypeError('this socket has no descriptor')
  return handle as Handle
}

/** One TLS connection. Emits `secure`, `data`, `end`, `drain`, `finish`, `timeout` and `close` like a socket of Node's. */
export class WireSocket extends EventEmitter implements Pipe {
  readonly id: number
  destroyed = false
  bytesRead = 0
  writableNeedDrain = false
  /** Why it is over; null before. */
  ending: Ending | null = null
  readonly #native: NativeWire
  readonly #forget: () => void
  /** Told of bytes instead of getting them. */
  #diverted: ((available: number) => void) | null = null
  /** Decrypted bytes that wait over there. */
  #available = 0
  #front: Buffer | null = null
  #paused = false
  #corked = 0
  #ending = false
  #endSeen: 'no' | 'waiting' | 'told' = 'no'
  #reading = false
  #timer: NodeJS.Timeout | undefined
  #timeout = 0
  #last = 0

  /** Made by `Wire`. `forget` is called when it is over. */
  constructor(wire: NativeWire, id: number, forget: () => void) {
    super()
    this.#native = wire
    this.id = id
    this.#forget = forget
  }

  get writable(): boolean {
    return !this.destroyed && !this.#ending
  }

  /** False: wait for `drain`. `done` is called before it returns: the bytes are copied by then. */
  write(chunk: Buffer | string, _encoding?: 'latin1', done?: () => void): boolean {
    const room = this.#write(chunk)
    done?.()
    return room
  }

  /** Passes `size` bytes that have arrived here on to another connection. False: wait for its `drain`. */
  passTo(to: WireSocket, size: number): boolean {
    if (!to.writable || this.destroyed) return true
    this.#touch()
    to.#touch()
    this.#available -= size
    this.bytesRead += size
    return to.#answered(this.#native.pass(this.id, to.id, size))
  }

  /**
   * Passes what has arrived here on to a client, if it is one whole answer of the usual kind, as `inboundHead` and
   * `Reply` would have it. Null: it is not, and nothing was done.
   */
  passAnswer(to: WireSocket): Passed | null {
    if (this.destroyed || this.#front || !to.writable || to.#corked > 0) return null
    const answer = this.#native.answer(this.id, to.id, told)
    if (answer === UNUSUAL) return null
    this.bytesRead += this.#available
    this.#available = 0
    to.#touch()
    to.#answered(answer)
    return { status: told[0] ?? 0, headBytes: told[1] ?? 0, bodyBytes: told[2] ?? 0 }
  }

  cork(): void {
    this.#corked++
  }

  uncork(): void {
    if (this.#corked === 0 || --this.#corked > 0 || this.destroyed) return
    this.#answered(this.#native.flush(this.id))
  }

  /** Bytes go nowhere; `take` is told how many there are whenever some come. Null: they are `data` again. */
  divert(take: ((available: number) => void) | null): void {
    this.#diverted = take
    if (this.#available > 0) process.nextTick(this.#read)
  }

  pause(): this {
    if (this.#paused || this.destroyed) return this
    this.#paused = true
    this.#native.pause(this.id, true)
    return this
  }

  resume(): this {
    if (!this.#paused || this.destroyed) return this
    this.#paused = false
    this.#native.pause(this.id, false)
    if (this.#available > 0 || this.#front || this.#endSeen === 'waiting') process.nextTick(this.#read)
    return this
  }

  /** Puts bytes back in front of all others. */
  unshift(bytes: Buffer): void {
    if (bytes.length > 0) this.#front = this.#front ? Buffer.concat([bytes, this.#front]) : bytes
  }

  /** Ends our side once all is sent. */
  end(): this {
    if (!this.writable) return this
    this.#ending = true
    const answer = this.#native.end(this.id)
    if (answer === GONE) process.nextTick(() => this.closed('closed'))
    else if (answer !== WAIT) process.nextTick(() => this.emit('finish'))
    return this
  }

  destroySoon(): void {
    this.end()
  }

  destroy(): this {
    if (this.destroyed) return this
    this.#native.close(this.id)
    this.#over('closed')
    process.nextTick(() => this.emit('close'))
    return this
  }

  /** Emits `timeout` when nothing was read or written for `ms`; 0: never. */
  setTimeout(ms: number): this {
    clearTimeout(this.#timer)
    this.#timeout = ms
    this.#touch()
    if (ms > 0 && !this.destroyed) this.#wake(ms)
    return this
  }

  /** Bytes have come; told by `Wire`, as the following. */
  arrived(available: number): void {
    this.#touch()
    this.#available = available
    this.#read()
  }

  drained(): void {
    this.#touch()
    this.writableNeedDrain = false
    this.emit('drain')
  }

  /** An end comes in a later turn than the last bytes, as with Node's sockets: promises that these settle run between. */
  ended(): void {
    setImmediate(() => {
      this.#endSeen = 'waiting'
      this.#read()
    })
  }

  closed(ending: Ending): void {
    if (this.destroyed) return
    this.#over(ending)
    setImmediate(() => this.emit('close'))
  }

  #over(ending: Ending): void {
    this.destroyed = true
    this.ending = ending
    clearTimeout(this.#timer)
    this.#forget()
  }

  #write(chunk: Buffer | string): boolean {
    if (!this.writable) return true
    this.#touch()
    const more = this.#corked > 0
    const answer =
      typeof chunk === 'string'
        ? this.#native.writeText(this.id, chunk, more)
        : this.#native.write(this.id, chunk, more)
    return this.#answered(answer)
  }

  #answered(answer: number): boolean {
    if (answer === GONE) process.nextTick(() => this.destroy())
    else if (answer === WAIT) this.writableNeedDrain = true
    return answer !== WAIT
  }

  readonly #read = (): void => {
    // A listener may pause and resume while it is called: its caller goes on.
    if (this.#reading) return
    this.#reading = true
    try {
      this.#deliver()
    } finally {
      this.#reading = false
    }
    if (this.#endSeen !== 'waiting' || this.#paused || this.destroyed || this.#available > 0) return
    this.#endSeen = 'told'
    this.emit('end')
  }

  #deliver(): void {
    while (!this.#paused && !this.destroyed) {
      if (this.#front) {
        const front = this.#front
        this.#front = null
        this.emit('data', front)
      } else if (this.#available <= 0) return
      else if (this.#diverted) {
        const before = this.#available
        this.#diverted(before)
        // Nobody took them, nor wants them here: whoever resumes or ends the diversion goes on.
        if (this.#available === before && this.#isDiverted()) return
      } else this.emit('data', this.#take())
    }
  }

  #isDiverted(): boolean {
    return this.#diverted !== null
  }

  #take(): Buffer {
    const room = Buffer.allocUnsafe(Math.min(this.#available, MOST_READ))
    const size = this.#native.read(this.id, room)
    this.#available = size === 0 ? 0 : this.#available - size
    this.bytesRead += size
    return size === room.length ? room : room.subarray(0, size)
  }

  #touch(): void {
    if (this.#timeout > 0) this.#last = performance.now()
  }

  #wake(ms: number): void {
    this.#timer = setTimeout(() => {
      const left = this.#last + this.#timeout - performance.now()
      if (left > 1) return this.#wake(left)
      this.emit('timeout')
    }, ms).unref()
  }
}
