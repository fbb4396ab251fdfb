/**
 * One kept HTTP/1.1 connection to a server, for one exchange after the other.
 *
 * node:http's client makes some twenty objects and as many listeners a request, which was a third of what a small
 * request cost here. The parser is the same, llhttp in its strict mode, and so is what it refuses.
 */
import { EventEmitter } from 'node:events'
// Node shows its binding of llhttp by this name only. Node is pinned, and every test of forwarding fails without it.
import { HTTPParser } from 'node:_http_common'
import { Readable } from 'node:stream'
import { Backlog, type Done, gather } from './backlog.ts'
import { UpstreamError } from './upstream.ts'
import { type Passed, type Pipe, WireSocket } from './wire.ts'

const MAX_HEAD = 65_536
/** Interim answers before the real one; a flood of them would hold the exchange open for nothing. */
const MOST_INTERIM = 16
/** What a body may be ahead of the client's reading. */
const AHEAD = 65_536

/** What llhttp's `on_headers_complete` is told about the body. */
const NO_BODY = 1
const STOP = 2

export interface Head {
  readonly method: string
  readonly path: string
  /** Name, value, name, value, …, with the framing. */
  readonly headers: readonly string[]
  /** Declared length of the body; null: chunked. 0: none. */
  readonly length: number | null
}

/**
 * An answer's head, and its body as a stream, or at once when it is there already. `complete` tells a whole body from
 * one broken off.
 */
export class Answer extends Readable {
  readonly statusCode: number
  readonly rawHeaders: string[]
  rawTrailers: string[] = []
  complete = false
  readonly #link: Link
  /** What came before it was asked for. */
  readonly #waiting = new Backlog()
  /** Somebody reads. */
  #read = false
  #wanted = false

  constructor(link: Link, statusCode: number, rawHeaders: string[]) {
    // It asks for more when nothing waits in it: all that does is ours.
    super({ highWaterMark: 1 })
    this.#link = link
    this.statusCode = statusCode
    this.rawHeaders = rawHeaders
  }

  /** A piece of the body. False: enough for now. */
  add(chunk: Buffer): boolean {
    if (this.#wanted) {
      this.#wanted = false
      this.push(chunk)
      return true
    }
    this.#waiting.add(chunk)
    return this.#waiting.length < AHEAD
  }

  /** The body is whole. */
  finish(): void {
    this.complete = true
    if (this.#read) this.#give()
  }

  /** All of a whole body that nobody has begun to read; null when it must be read. A stream costs more than most bodies. */
  takeWhole(): readonly Buffer[] | null {
    if (!this.complete || this.#read || this.rawTrailers.length > 0) return null
    return this.#waiting.take()
  }

  override _read(): void {
    this.#read = true
    this.#wanted = this.#waiting.length === 0
    this.#give()
    if (!this.complete) this.#link.flow()
  }

  #give(): void {
    for (const piece of this.#waiting.take()) this.push(piece)
    if (this.complete) this.push(null)
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.complete) this.#link.destroy()
    done(error)
  }
}

/** Where an answer may go without being read here, and who is told that it did. */
export interface Shortcut {
  readonly to: WireSocket
  passed(answer: Passed): void
}

/** Emits `drain` like the stream that it writes to. */
export class Link extends EventEmitter {
  readonly socket: Pipe
  /** Exchanges that it has carried. */
  served = 0
  idleSince = 0
  /** Whoever has it is the last one. */
  retired = false
  readonly #parser: HTTPParser
  readonly #release: (link: Link) => void
  #sent: Head | null = null
  #left = 0
  #ended = true
  #interim = 0
  #early: string[] | null = null
  #answer: Answer | null = null
  #settle: { resolve(answer: Answer | null): void; reject(error: UpstreamError): void } | null = null
  #shortcut: Shortcut | null = null
  #reusable = true
  #dead = false
  #paused = false

  /** `release` is called when an exchange is over and the connection can carry another. */
  constructor(socket: Pipe, release: (link: Link) => void) {
    super()
    this.socket = socket
    this.#release = release
    this.#parser = this.#newParser()
    if (socket instanceof Readable) gather(socket)
    socket.on('data', this.#onData)
    socket.on('end', this.#onEnd)
    socket.on('drain', () => this.emit('drain'))
    socket.on('close', () => this.#fail())
    socket.resume()
  }

  get dead(): boolean {
    return this.#dead
  }

  /**
   * Sends a head; resolves with the answer's. A body follows by `write` and `end`. Resolves with null when the whole
   * answer went the shortcut, which requests without a body may have.
   */
  send(head: Head, shortcut: Shortcut | null = null): Promise<Answer | null> {
    if (this.#dead || this.#sent) return Promise.reject(new UpstreamError('upstream.failed'))
    const bytes = serialise(head)
    if (bytes === null) return Promise.reject(new UpstreamError('upstream.failed'))
    this.#sent = head
    this.#left = head.length ?? 0
    this.#ended = head.length === 0
    this.#interim = 0
    this.#reusable = true
    this.served++
    const answer = new Promise<Answer | null>((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    if (shortcut && this.#ended && this.socket instanceof WireSocket) {
      this.#shortcut = shortcut
      this.socket.divert(this.#onWhole)
    }
    this.#write(bytes)
    return answer
  }

  /** A piece of the body, framed as declared. False: wait for `drain`. */
  write(chunk: Buffer, _encoding?: undefined, done?: Done): boolean {
    if (this.#dead || this.#ended || chunk.length === 0) {
      done?.()
      return true
    }
    if (this.#sent?.length === null) return this.#writeChunked(chunk, done)
    this.#left -= chunk.length
    // More than was declared would be read as another request.
    if (this.#left >= 0) return this.socket.write(chunk, undefined, done)
    this.destroy()
    done?.()
    return true
  }

  end(): void {
    if (this.#dead || this.#ended) return
    this.#ended = true
    if (this.#sent?.length === null) this.socket.write('0\r\n\r\n', 'latin1')
    else if (this.#left !== 0) this.destroy()
  }

  /** Whether a body can be passed to it natively: it goes as it comes, without chunks. */
  get passes(): boolean {
    const length = this.#sent?.length
    return this.socket instanceof WireSocket && !this.#dead && !this.#ended && typeof length === 'number'
  }

  /** Like `write`, for bytes that have come over another native connection. */
  pass(from: WireSocket, bytes: number): boolean {
    if (!this.passes || !(this.socket instanceof WireSocket)) return true
    this.#left -= bytes
    if (this.#left >= 0) return from.passTo(this.socket, bytes)
    this.destroy()
    return true
  }

  get writableNeedDrain(): boolean {
    return this.socket.writableNeedDrain
  }

  /** The reader of the answer has room again. */
  flow(): void {
    if (!this.#paused) return
    this.#paused = false
    this.socket.resume()
  }

  /** Whoever took the connection has sent nothing on it: another may have it. */
  giveBack(): void {
    if (!this.#dead && !this.#sent) this.#release(this)
  }

  /** Breaks off the exchange that `head` began, if the connection still carries it. */
  abort(head: Head): void {
    if (this.#sent === head) this.destroy()
  }

  destroy(): void {
    this.socket.destroy()
    this.#fail()
  }

  /** Head and first piece of the body in one record, when the piece is there already. */
  #write(head: string): void {
    if (!this.#ended) {
      this.socket.cork()
      process.nextTick(() => this.socket.uncork())
    }
    this.socket.write(head, 'latin1')
  }

  #writeChunked(chunk: Buffer, done: Done | undefined): boolean {
    this.socket.cork()
    this.socket.write(`${chunk.length.toString(16)}\r\n`, 'latin1')
    this.socket.write(chunk)
    const room = this.socket.write('\r\n', 'latin1', done)
    this.socket.uncork()
    return room
  }

  readonly #onData = (bytes: Buffer): void => {
    // A server that speaks unasked would have its words taken for the next answer.
    if (!this.#sent) return this.destroy()
    const parsed = this.#parser.execute(bytes)
    if (parsed instanceof Error) this.destroy()
  }

  /** The first bytes of an answer: nothing of it was read yet. What does not go straight to the client is read here. */
  readonly #onWhole = (): void => {
    const { socket } = this
    const shortcut = this.#shortcut
    this.#shortcut = null
    if (!(socket instanceof WireSocket)) return
    const passed = shortcut && this.#sent && !this.#dead ? socket.passAnswer(shortcut.to) : null
    socket.divert(null)
    if (!passed || !shortcut) return
    this.#sent = null
    this.#settle?.resolve(null)
    this.#settle = null
    this.#release(this)
    shortcut.passed(passed)
  }

  readonly #onEnd = (): void => {
    // A body without a length ends with the connection; `finish` says whether this one did.
    this.#reusable = false
    if (this.#sent) this.#parser.finish()
    this.destroy()
  }

  #newParser(): HTTPParser {
    const parser = new HTTPParser()
    parser.initialize(HTTPParser.RESPONSE, {}, MAX_HEAD, HTTPParser.kLenientNone)
    parser[HTTPParser.kOnMessageBegin] = () => {
      // Behind a whole answer, in the same piece: half a head would become the beginning of the next one.
      if (!this.#sent || this.#answer) this.destroy()
    }
    parser[HTTPParser.kOnHeaders] = (headers) => {
      // Lists longer than the parser's own come in pieces, a trailer's too.
      this.#early = [...(this.#early ?? []), ...headers]
    }
    parser[HTTPParser.kOnHeadersComplete] = (
      _major,
      _minor,
      headers,
      _method,
      _url,
      status,
      _text,
      upgrade,
      keep,
    ) => this.#onHead(status, this.#early ?? headers ?? [], upgrade, keep)
    parser[HTTPParser.kOnBody] = (chunk) => this.#onBody(chunk)
    parser[HTTPParser.kOnMessageComplete] = () => this.#onComplete()
    return parser
  }

  #onHead(status: number, headers: string[], upgrade: boolean, keep: boolean): number {
    this.#early = null
    if (this.#dead || !this.#sent || this.#answer) return this.#refuse()
    // 101 without an upgrade of ours: there is no protocol to switch to.
    if (upgrade || status === 101) return this.#refuse()
    if (status < 200) return ++this.#interim > MOST_INTERIM ? this.#refuse() : NO_BODY
    if (!keep) this.#reusable = false
    this.#answer = new Answer(this, status, headers)
    this.#settle?.resolve(this.#answer)
    this.#settle = null
    return this.#sent.method === 'HEAD' ? NO_BODY : 0
  }

  #refuse(): number {
    this.destroy()
    return STOP
  }

  #onBody(chunk: Buffer): void {
    if (this.#dead || !this.#answer || this.#answer.add(chunk)) return
    this.#paused = true
    this.socket.pause()
  }

  #onComplete(): void {
    const answer = this.#answer
    if (this.#dead || !answer) return
    answer.rawTrailers = this.#early ?? []
    this.#early = null
    this.#answer = null
    this.#sent = null
    answer.finish()
    // An answer before the request was whole: what is left of it would be read as the next one.
    if (!this.#ended || !this.#reusable) return this.destroy()
    this.flow()
    this.#release(this)
  }

  #fail(): void {
    if (this.#dead) return
    this.#dead = true
    this.#ended = true
    this.#sent = null
    this.#settle?.reject(new UpstreamError('upstream.failed'))
    this.#settle = null
    this.#answer?.destroy()
    this.#answer = null
    setImmediate(() => this.#parser.close())
  }
}

/** Bytes of a head (Latin-1); null when a field holds what no field can (RFC 9110 §5.5): it would begin another one. */
function serialise({ method, path, headers }: Head): string | null {
  if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(method) || !/^[\x21-\xff]+$/.test(path)) return null
  let text = `${method} ${path} HTTP/1.1\r\n`
  for (let at = 0; at < headers.length; at += 2) {
    const name = headers[at] ?? ''
    const value = headers[at + 1] ?? ''
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) || /[^\t\x20-\x7e\x80-\xff]/.test(value)) return null
    text += `${name}: ${value}\r\n`
  }
  return `${text}Connection: keep-alive\r\n\r\n`
}
