/**
 * HTTP/1.1 requests of a client as they nearly always come: the head in one piece, without a body or with one of
 * declared length, on a connection that stays open.
 *
 * node:http's server makes some thirty objects and listeners a request and copies each piece of a body once more. What
 * is any other way (half a head, chunks, an upgrade, `Expect`, HTTP/1.0, `Connection: close`, what llhttp refuses) goes
 * to that server with the connection, whole and before anything of it was acted on: there is one reading of the unusual.
 */
import { EventEmitter } from 'node:events'
// See link.ts: the same parser in the same strict mode as the server's.
import { HTTPParser } from 'node:_http_common'
import { Reply } from './reply.ts'
import { type Pipe, WireSocket } from './wire.ts'

const MAX_HEAD = 65_536
/** llhttp's answer "nothing follows": it stops behind the head, and what is a body is told by its length here. */
const HEAD_ONLY = 2
/** llhttp's numbers of methods; all others go to the server. */
const METHODS: Readonly<Record<number, string>> = {
  0: 'DELETE',
  1: 'GET',
  2: 'HEAD',
  3: 'POST',
  4: 'PUT',
  6: 'OPTIONS',
  28: 'PATCH',
}
const UNUSUAL = new Set([
  'connection',
  'expect',
  'transfer-encoding',
  'trailer',
  'upgrade',
  'te',
  'http2-settings',
])

/** A request, its body as events `data` and `end`. */
export class InletRequest extends EventEmitter {
  readonly httpVersion = '1.1'
  readonly method: string
  readonly url: string
  readonly rawHeaders: string[]
  readonly #socket: Pipe
  /** Came before anybody listened: no more than one read of the socket. */
  #held: Buffer[] = []
  #flowing = false
  #whole: boolean
  #ended = false
  readonly #divert: Divert

  constructor(
    socket: Pipe,
    method: string,
    url: string,
    rawHeaders: string[],
    whole: boolean,
    divert: Divert,
  ) {
    super()
    this.#socket = socket
    this.#divert = divert
    this.method = method
    this.url = url
    this.rawHeaders = rawHeaders
    this.#whole = whole
  }

  /** Like a Readable's: who listens for data has it flow. */
  override on(event: string, listener: (...args: never[]) => void): this {
    super.on(event, listener as (...args: unknown[]) => void)
    if (event === 'data') this.resume()
    return this
  }

  pause(): this {
    // Whole: the socket must be read on, or nobody would see the client go.
    if (this.#whole && this.#held.length === 0) return this
    this.#flowing = false
    this.#socket.pause()
    return this
  }

  resume(): this {
    if (!this.#flowing) process.nextTick(this.#flow)
    this.#flowing = true
    return this
  }

  /**
   * Has the rest of the body stay where it is: `take` is told how many bytes of it have come, and from where they can be
   * passed on; it says whether it did. Null has it come here again. False: this connection has no other place for it.
   */
  divert(take: Taker | null): boolean {
    return this.#held.length === 0 && !this.#whole && this.#divert(take)
  }

  /** The next piece of the body, which went elsewhere, was the last one. */
  pushed(): void {
    this.#whole = true
    this.#finish()
  }

  /** The next piece of the body; `last`: the body is whole with it. */
  push(chunk: Buffer, last: boolean): void {
    this.#whole = last
    if (this.#flowing && this.#held.length === 0) {
      this.emit('data', chunk)
      this.#finish()
      return
    }
    this.#held.push(chunk)
    this.#socket.pause()
  }

  readonly #flow = (): void => {
    if (this.#ended) return
    while (this.#flowing && this.#held.length > 0) this.emit('data', this.#held.shift())
    if (!this.#flowing) return
    this.#finish()
    this.#socket.resume()
  }

  #finish(): void {
    if (!this.#whole || this.#held.length > 0 || this.#ended) return
    this.#ended = true
    this.emit('end')
  }
}

/** Takes bytes that have come over `from`. */
export type Taker = (from: WireSocket, bytes: number) => boolean
type Divert = (take: Taker | null) => boolean

interface Parsed {
  readonly method: string
  readonly url: string
  readonly headers: string[]
  readonly length: number
  readonly agent: string | undefined
}

export interface InletRules {
  /** Milliseconds for the first head, and between two requests. */
  readonly head: number
  readonly idle: number
  serve(request: InletRequest, reply: Reply): void
  /** Node's server takes the connection; what it has not read lies in front. */
  leave(): void
  /** No head came in time. */
  slow(): void
}

/** Reads the requests of one connection, one after the other. */
export class Inlet {
  readonly #socket: Pipe
  readonly #rules: InletRules
  readonly #parser = new HTTPParser()
  #parsed: Parsed | null = null
  #request: InletRequest | null = null
  #reply: Reply | null = null
  /** Bytes of the body that are still to come. */
  #left = 0
  /** What came behind a request that is not answered yet. */
  #early: Buffer | null = null
  #served = false
  /** This connection is the server's, or ends. */
  #gone = false
  #closing = false

  constructor(socket: Pipe, rules: InletRules) {
    this.#socket = socket
    this.#rules = rules
    this.#prepare()
    socket.on('data', this.#onData)
    socket.on('end', this.#onEnd)
    socket.on('close', this.#onClose)
    socket.on('drain', this.#onDrain)
    socket.on('timeout', this.#onTimeout)
    socket.setTimeout(rules.head)
  }

  #prepare(): void {
    const parser = this.#parser
    parser.initialize(HTTPParser.REQUEST, {}, MAX_HEAD, HTTPParser.kLenientNone)
    parser[HTTPParser.kOnHeaders] = () => undefined
    parser[HTTPParser.kOnHeadersComplete] = (
      major,
      minor,
      headers,
      method,
      url,
      _status,
      _text,
      upgrade,
      keep,
    ) => {
      // A list too long for one call came in pieces.
      if (major === 1 && minor === 1 && headers && !upgrade && keep)
        this.#parsed = usual(METHODS[method ?? -1], url ?? '', headers)
      return HEAD_ONLY
    }
  }

  readonly #onData = (bytes: Buffer): void => {
    let rest = bytes
    while (rest.length > 0 && !this.#gone) {
      if (this.#early || (this.#reply && this.#left === 0)) return this.#hold(rest)
      rest = this.#left > 0 ? this.#body(rest) : this.#head(rest)
    }
  }

  #hold(bytes: Buffer): void {
    this.#early = this.#early ? Buffer.concat([this.#early, bytes]) : bytes
    this.#socket.pause()
  }

  /** What is left of `bytes` behind the body. */
  #body(bytes: Buffer): Buffer {
    const piece = bytes.length <= this.#left ? bytes : bytes.subarray(0, this.#left)
    this.#left -= piece.length
    this.#request?.push(piece, this.#left === 0)
    if (this.#left === 0) this.#next()
    return bytes.subarray(piece.length)
  }

  /** What is left of `bytes` behind the head. */
  #head(bytes: Buffer): Buffer {
    this.#parsed = null
    const end = this.#parser.execute(bytes)
    const parsed = this.#parsed as Parsed | null
    // A number alone says little: of a connection that is used again llhttp tells errors so, too.
    if (typeof end !== 'number' || parsed === null) {
      this.#leave(bytes)
      return bytes.subarray(bytes.length)
    }
    if (!this.#served) this.#socket.setTimeout(this.#rules.idle)
    this.#served = true
    const { method, url, headers, length, agent } = parsed
    const socket = this.#socket
    this.#left = length
    const request = new InletRequest(socket, method, url, headers, length === 0, this.#divert)
    const reply = new Reply(socket, method, agent, () => this.#answered(reply))
    this.#request = request
    this.#reply = reply
    this.#rules.serve(request, reply)
    return bytes.subarray(end)
  }

  #answered({ last }: Reply): void {
    if (last) {
      this.#gone = true
      this.#socket.destroySoon()
      this.#close()
      return
    }
    // Answered before it was whole: the rest is nobody's.
    if (this.#left > 0) {
      this.#request?.divert(null)
      this.#request?.removeAllListeners('data').resume()
    }
    this.#next()
  }

  /** On to the next request once this one is read and answered, and whoever asks also reads. */
  #next(): void {
    if (this.#gone || this.#left > 0 || !this.#reply?.over || this.#socket.writableNeedDrain) return
    this.#reply = null
    this.#request = null
    if (!this.#early) return void this.#socket.resume()
    // Not here: a thousand requests in one piece would be a thousand calls deep.
    setImmediate(() => {
      const early = this.#early
      this.#early = null
      if (!early || this.#socket.destroyed) return
      this.#socket.resume()
      this.#onData(early)
    })
  }

  readonly #divert = (take: Taker | null): boolean => {
    const socket = this.#socket
    if (!(socket instanceof WireSocket)) return false
    if (take === null) socket.divert(null)
    else
      socket.divert((available) => {
        const size = Math.min(available, this.#left)
        if (!take(socket, size)) return
        this.#left -= size
        if (this.#left > 0) return
        socket.divert(null)
        this.#request?.pushed()
        this.#next()
      })
    return true
  }

  #leave(bytes: Buffer): void {
    const socket = this.#socket
    this.#gone = true
    socket.setTimeout(0)
    socket.off('data', this.#onData)
    socket.off('end', this.#onEnd)
    socket.off('close', this.#onClose)
    socket.off('drain', this.#onDrain)
    socket.off('timeout', this.#onTimeout)
    this.#close()
    socket.pause()
    socket.unshift(bytes)
    this.#rules.leave()
    socket.resume()
  }

  readonly #onEnd = (): void => {
    // As node:http has it: who ends its side wants no answer any more.
    this.#socket.end()
  }

  readonly #onClose = (): void => {
    this.#gone = true
    this.#reply?.closed()
    this.#close()
  }

  readonly #onDrain = (): void => {
    this.#reply?.emit('drain')
    this.#next()
  }

  readonly #onTimeout = (): void => {
    // Answered, and nobody reads it.
    if (this.#reply?.over && this.#socket.writableNeedDrain) return void this.#socket.destroy()
    if (this.#gone || this.#reply || this.#left > 0) return
    if (this.#served) {
      this.#socket.destroySoon()
      return
    }
    this.#gone = true
    this.#rules.slow()
  }

  #close(): void {
    if (this.#closing) return
    this.#closing = true
    // Not inside its own callback.
    setImmediate(() => this.#parser.close())
  }
}

/** The head, if nothing about it is unusual. */
function usual(method: string | undefined, url: string, headers: string[]): Parsed | null {
  if (method === undefined) return null
  let length = 0
  let agent: string | undefined
  let declared = false
  for (let at = 0; at < headers.length; at += 2) {
    const name = (headers[at] ?? '').toLowerCase()
    const value = headers[at + 1] ?? ''
    if (UNUSUAL.has(name)) {
      if (name !== 'connection' || value.toLowerCase() !== 'keep-alive') return null
    } else if (name === 'content-length') {
      if (declared || !/^\d{1,15}$/.test(value)) return null
      declared = true
      length = Number(value)
    } else if (name === 'user-agent') agent ??= value
  }
  return { method, url, headers, length, agent }
}
