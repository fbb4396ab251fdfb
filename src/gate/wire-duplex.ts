/** A native connection as a stream of Node's, for the parts of Node that want one. */
import { Duplex } from 'node:stream'
import { gather } from './backlog.ts'
import type { WireSocket } from './wire.ts'

/** Reads and writes through `socket`, which is this stream's alone from now on. */
export class WireDuplex extends Duplex {
  readonly #socket: WireSocket
  #drained: (() => void) | null = null

  constructor(socket: WireSocket) {
    super({ allowHalfOpen: true, emitClose: true })
    this.#socket = socket
    gather(this)
    socket.on('data', (chunk: Buffer) => {
      if (!this.push(chunk)) socket.pause()
    })
    socket.on('end', () => this.push(null))
    socket.on('drain', () => this.#goOn())
    socket.on('timeout', () => this.emit('timeout'))
    socket.on('close', () => {
      this.#goOn()
      this.destroy()
    })
  }

  get bytesRead(): number {
    return this.#socket.bytesRead
  }

  setTimeout(ms: number, then?: () => void): this {
    this.#socket.setTimeout(ms)
    if (then) this.once('timeout', then)
    return this
  }

  setNoDelay(): this {
    return this
  }

  setKeepAlive(): this {
    return this
  }

  override _read(): void {
    this.#socket.resume()
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#socket.write(chunk)) done()
    else this.#drained = done
  }

  /** Pieces that were held back go as one: a head and its body are one record of TLS. */
  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), 'latin1', done)
  }

  override _final(done: (error?: Error | null) => void): void {
    const socket = this.#socket
    if (!socket.writable) return done()
    // Once all is sent: who is finished may be destroyed.
    const finished = (): void => {
      socket.off('finish', finished)
      socket.off('close', finished)
      done()
    }
    socket.on('finish', finished)
    socket.on('close', finished)
    socket.end()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy()
    done(error)
  }

  #goOn(): void {
    const drained = this.#drained
    this.#drained = null
    drained?.()
  }
}
