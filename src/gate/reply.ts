/** An HTTP/1.1 answer to a client, framed by us: what the inlet's exchanges answer with. */
import { EventEmitter } from 'node:events'
import { STATUS_CODES } from 'node:http'
import type { Done } from './backlog.ts'
import { type Pipe, WireSocket } from './wire.ts'

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const NO_VALUE = /[^\t\x20-\x7e\x80-\xff]/
/** Larger pieces are written as they are; smaller ones are copied behind their head, for one record of TLS. */
const MOST_COPIED = 32_768

/** How the end of a body is told: by length, by chunks, or there is none. */
type Framing = 'length' | 'chunks' | 'none'

/** Emits `drain` like the socket that it writes to, and `close` once it is whole or the connection is gone. */
export class Reply extends EventEmitter {
  headersSent = false
  /** Node's answers have it; ours never add a date of their own. */
  sendDate = false
  /** The connection ends with this answer. */
  last = false
  readonly req: { readonly headers: { readonly 'user-agent'?: string } }
  readonly #socket: Pipe
  readonly #head: boolean
  readonly #done: () => void
  #pending = ''
  #framing: Framing = 'none'
  #left = 0
  #trailers = ''
  #over = false

  /** `method` is the request's; `done` is called when the answer is whole. */
  constructor(socket: Pipe, method: string, agent: string | undefined, done: () => void) {
    super()
    this.#socket = socket
    this.#head = method === 'HEAD'
    this.#done = done
    this.req = { headers: agent === undefined ? {} : { 'user-agent': agent } }
  }

  get over(): boolean {
    return this.#over
  }

  /** The native connection that a whole answer may be passed to, if nothing of another was written. */
  get shortcut(): WireSocket | null {
    const free = !this.#over && !this.headersSent && !this.#head
    return free && this.#socket instanceof WireSocket ? this.#socket : null
  }

  /** A whole answer went over `shortcut`. */
  passed(): void {
    this.headersSent = true
    this.closed()
    this.#done()
  }

  /**
   * Headers are name, value, name, value, … or an object. Nothing is sent before the first piece of the body.
   *
   * @throws TypeError for what a head cannot hold: it would begin another field.
   */
  writeHead(
    status: number,
    title: string | readonly string[] | Record<string, string | number>,
    fields?: Record<string, string | number>,
  ): void {
    const [text, given] = typeof title === 'string' ? [title, fields ?? {}] : [STATUS_CODES[status], title]
    const headers = Array.isArray(given)
      ? (given as readonly string[])
      : Object.entries(given).flat().map(String)
    if (this.headersSent || !Number.isInteger(status) || status < 200 || status > 999)
      throw new TypeError('no head of an answer')
    let lines = `HTTP/1.1 ${status} ${text ?? 'unknown'}\r\n`
    let length: string | undefined
    for (let at = 0; at < headers.length; at += 2) {
      const name = headers[at] ?? ''
      const value = headers[at + 1] ?? ''
      if (!TOKEN.test(name) || NO_VALUE.test(value)) throw new TypeError('no field of a head')
      lines += `${name}: ${value}\r\n`
      if (name.length === 14 && name.toLowerCase() === 'content-length') length = value
      else if (name.length === 10 && name.toLowerCase() === 'connection' && value === 'close')
        this.last = true
    }
    if (!this.last) lines += 'Connection: keep-alive\r\nKeep-Alive: timeout=60\r\n'
    this.#framing = this.#framingOf(status, length)
    if (this.#framing === 'chunks') lines += 'Transfer-Encoding: chunked\r\n'
    this.headersSent = true
    this.#pending = `${lines}\r\n`
  }

  /** A piece of the body. False: wait for `drain`. */
  write(chunk: Buffer, _encoding?: undefined, done?: Done): boolean {
    if (this.#over || !this.headersSent || this.#framing === 'none' || chunk.length === 0) {
      done?.()
      return true
    }
    if (this.#framing === 'chunks')
      return this.#send(`${this.#pending}${chunk.length.toString(16)}\r\n`, chunk, '\r\n', done)
    this.#left -= chunk.length
    // More than was announced would be read as the next answer.
    if (this.#left >= 0) return this.#send(this.#pending, chunk, '', done)
    this.destroy()
    done?.()
    return true
  }

  end(chunk?: Buffer): void {
    if (this.#over) return
    if (chunk) this.write(chunk)
    if (!this.headersSent || (this.#framing === 'length' && this.#left !== 0)) return this.destroy()
    const rest = this.#framing === 'chunks' ? `${this.#pending}0\r\n${this.#trailers}\r\n` : this.#pending
    if (rest !== '') this.#socket.write(rest, 'latin1')
    this.#pending = ''
    this.closed()
    this.#done()
  }

  /** Fields behind the last chunk; elsewhere there is no place for them. @throws TypeError like `writeHead`. */
  addTrailers(trailers: Readonly<Record<string, string>>): void {
    for (const [name, value] of Object.entries(trailers)) {
      if (!TOKEN.test(name) || NO_VALUE.test(value)) throw new TypeError('no field of a trailer')
      this.#trailers += `${name}: ${value}\r\n`
    }
  }

  /** Breaks off: the client sees that the answer is not whole. */
  destroy(): void {
    this.#socket.destroy()
    this.closed()
  }

  /** The answer is whole, or its connection gone. */
  closed(): void {
    if (this.#over) return
    this.#over = true
    this.emit('close')
  }

  #framingOf(status: number, length: string | undefined): Framing {
    if (this.#head || status === 204 || status === 304) return 'none'
    if (length === undefined) return 'chunks'
    if (!/^\d{1,15}$/.test(length)) throw new TypeError('no length of a body')
    this.#left = Number(length)
    return 'length'
  }

  #send(before: string, chunk: Buffer, after: string, done?: Done): boolean {
    this.#pending = ''
    if (before === '') return this.#socket.write(chunk, undefined, done)
    if (chunk.length <= MOST_COPIED) {
      const all = Buffer.allocUnsafe(before.length + chunk.length + after.length)
      all.write(before, 0, 'latin1')
      all.set(chunk, before.length)
      all.write(after, before.length + chunk.length, 'latin1')
      return this.#socket.write(all, undefined, done)
    }
    this.#socket.cork()
    this.#socket.write(before, 'latin1')
    const room = this.#socket.write(chunk, undefined, done)
    if (after !== '') this.#socket.write(after, 'latin1')
    this.#socket.uncork()
    return room
  }
}
