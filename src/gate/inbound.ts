/** Reads a client's request head into one form for HTTP/1.1 and HTTP/2, or says what is wrong with it. */
import type { IncomingMessage } from 'node:http'
import type { Http2ServerRequest } from 'node:http2'
import { parseAuthority } from '../lib/host.ts'
import type { FlowTarget } from './flow.ts'
import type { InletRequest } from './inlet.ts'

/** Headers that pass a session; SRT's figure, well above what programs send. */
const MOST_HEADERS = 191

export interface Inbound {
  readonly method: string
  /** Origin form: path and query as spelled on the wire. */
  readonly target: string
  /** Name, value, name, value, … as on the wire; HTTP/2 pseudo headers included. */
  readonly raw: readonly string[]
  readonly http2: boolean
  readonly hasBody: boolean
  readonly contentLength: number | null
  /** Bytes of request line and headers, as HTTP/1.1 would send them. */
  readonly headBytes: number
}

export type InboundError =
  | 'http.malformed'
  | 'http.absolute-form'
  | 'http.misdirected'
  | 'http.head-too-large'

export type ClientRequest = IncomingMessage | Http2ServerRequest | InletRequest

interface Framing {
  readonly hosts: string[]
  readonly lengths: string[]
  readonly encodings: string[]
  bytes: number
}

/** Parses the head. `tls` gives the port that an authority without one means. */
export function readInbound(request: ClientRequest, flow: FlowTarget, tls: boolean): Inbound | InboundError {
  // By what it came in, not by what it says: `HTTP/2.0` in an HTTP/1 request line is one more reading.
  const http2 = 'stream' in request
  if (!http2 && !/^1\.[01]$/.test(request.httpVersion)) return 'http.malformed'
  const method = request.method ?? ''
  const target = request.url ?? ''
  const raw = request.rawHeaders
  if (raw.length > 2 * MOST_HEADERS) return 'http.head-too-large'
  const framing = readFraming(raw)
  const shape = targetError(target) ?? framingError(framing, http2)
  if (shape !== null) return shape
  if (!namesFlow(framing.hosts, flow, tls, http2)) return 'http.misdirected'
  const contentLength = framing.lengths[0] === undefined ? null : Number(framing.lengths[0])
  const chunked = framing.encodings.length > 0 || (http2 && contentLength === null && !endsWithHead(request))
  return {
    method,
    target,
    raw,
    http2,
    hasBody: chunked || (contentLength ?? 0) > 0,
    contentLength,
    headBytes: method.length + target.length + 12 + framing.bytes,
  }
}

function readFraming(raw: readonly string[]): Framing {
  const framing: Framing = { hosts: [], lengths: [], encodings: [], bytes: 0 }
  for (let at = 0; at < raw.length; at += 2) {
    const name = raw[at] ?? ''
    const value = raw[at + 1] ?? ''
    framing.bytes += name.length + value.length + 4
    const lower = name.toLowerCase()
    if (lower === 'host' || lower === ':authority') framing.hosts.push(value)
    else if (lower === 'content-length') framing.lengths.push(value)
    else if (lower === 'transfer-encoding') framing.encodings.push(value)
  }
  return framing
}

/** Only `/path?query` in printable ASCII: no absolute form, no `*`, no fragment, nothing two servers would read as two. */
function targetError(target: string): InboundError | null {
  if (/^[a-z][a-z0-9+.-]*:/i.test(target)) return 'http.absolute-form'
  return /^\/[\x21\x22\x24-\x7e]*$/.test(target) ? null : 'http.malformed'
}

/** One way to tell where the message ends (N-28). The parser refuses most of this itself; this does not rely on it. */
function framingError({ lengths, encodings }: Framing, http2: boolean): InboundError | null {
  if (lengths.length > 1 || encodings.length > 1) return 'http.malformed'
  if (lengths.length === 1 && encodings.length === 1) return 'http.malformed'
  if (lengths[0] !== undefined && !/^\d{1,15}$/.test(lengths[0])) return 'http.malformed'
  if (encodings[0] !== undefined && (http2 || encodings[0].toLowerCase() !== 'chunked'))
    return 'http.malformed'
  return null
}

/** Every authority in the head names the connection's own host and port (N-20). */
function namesFlow(hosts: readonly string[], flow: FlowTarget, tls: boolean, http2: boolean): boolean {
  if (hosts.length === 0 || hosts.length > (http2 ? 2 : 1)) return false
  const usual = flow.port === (tls ? 443 : 80) && !flow.host.includes(':')
  return hosts.every((text) => {
    // Spelled canonically, as nearly always: the parser could only say the same.
    if (usual && text === flow.host) return true
    const named = parseAuthority(text, tls ? 443 : 80)
    return named !== null && named.host === flow.host && named.port === flow.port
  })
}

const endsWithHead = (request: ClientRequest): boolean =>
  'stream' in request && request.stream.endAfterHeaders
