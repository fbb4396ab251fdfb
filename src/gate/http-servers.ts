/** The HTTP servers that terminate clients' requests. They listen nowhere: connections are handed to them. */
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from 'node:http'
import {
  createSecureServer,
  type Http2SecureServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type ServerHttp2Session,
} from 'node:http2'
import type { Socket } from 'node:net'
import { type Duplex, Readable, Stream } from 'node:stream'
import { gather } from './backlog.ts'
import type { GateContext } from './context.ts'
import { Exchange, type Forward } from './exchange.ts'
import { carry, type Flow, flowOf, lingerOnClose } from './flow.ts'
import { forwardHttp1 } from './forward-http1.ts'
import { forwardHttp2 } from './forward-http2.ts'
import type { ClientRequest } from './inbound.ts'
import { Inlet } from './inlet.ts'
import type { Deadlines } from './options.ts'
import { rawProblem, refusal } from './refuse.ts'
import type { ClientResponse } from './respond.ts'
import { isWebSocket, upgradeWebSocket } from './websocket.ts'
import { WireDuplex } from './wire-duplex.ts'
import { type Pipe, WireSocket } from './wire.ts'

const MAX_HEAD = 65_536
/**
 * Bytes that an HTTP/2 client may send ahead of us, on a connection and on a stream. Node takes the former back as bytes
 * arrive, so what is kept is the latter for each request under way. The client is on this machine: a quarter does.
 */
const WINDOW = 1 << 20
const STREAM_WINDOW = WINDOW >> 2
/** How long a client's HTTP/1.1 connection may do nothing between two requests. */
const KEPT_MS = 60_000

/** Settings of every HTTP/1.1 server here: llhttp strict, heads bounded in size and time. */
export const http1Options = (deadlines: Deadlines): ServerOptions => ({
  insecureHTTPParser: false,
  maxHeaderSize: MAX_HEAD,
  headersTimeout: deadlines.head,
  requestTimeout: 0,
  keepAliveTimeout: KEPT_MS,
  connectionsCheckingInterval: Math.min(2000, deadlines.head),
  noDelay: true,
  requireHostHeader: false,
})

/** The gate, once it is made: servers are parts of it and need it. */
export type GateOf = () => GateContext

/** Serves HTTP/1.1 on the connections it is given, over TLS or plain. */
export function createHttp1Server(deadlines: Deadlines, gate: GateOf): Server {
  const server = createServer({
    ...http1Options(deadlines),
    shouldUpgradeCallback: isWebSocket,
  } as ServerOptions)
  // Counted and refused in inbound.ts: Node would cut the list short in silence.
  server.maxHeadersCount = 0
  // Node starts its watch over slow heads when a server listens; this one never does.
  server.emit('listening')
  const last = new WeakMap<Duplex, Pair>()
  server.on('request', (request, response) => {
    last.set(request.socket, { request, response })
    serve(gate(), request.socket, request, response, forwardHttp1)
  })
  server.on('checkContinue', (request, response) => {
    last.set(request.socket, { request, response })
    const forward: Forward = (exchange, admitted) => {
      response.writeContinue()
      return forwardHttp1(exchange, admitted)
    }
    serve(gate(), request.socket, request, response, forward)
  })
  // Said here, for Node would refuse it by itself, without a record.
  server.on('checkExpectation', (request, response) => {
    last.set(request.socket, { request, response })
    refuse(gate(), request.socket, request, response, 'http.expectation-unknown')
  })
  server.on('upgrade', (request, socket: Duplex, head) => {
    const flow = flowOf(socket)
    if (flow) void upgradeWebSocket(gate(), flow, request, socket, head)
    else socket.destroy()
  })
  // CONNECT inside a flow would be a tunnel in a tunnel (N-24): the explicit proxy is the one place for it.
  server.on('connect', (request, socket: Duplex) => refuseSocket(gate(), socket, 'http.method-unknown'))
  server.on('clientError', (error: Error, socket: Duplex) => {
    const pair = last.get(socket)
    if (pair && isAnswered(pair)) endAnswered(pair, socket)
    else refuseSocket(gate(), socket, clientErrorReason(error))
  })
  return server
}

/** A message and its answer. */
interface Pair {
  readonly request: IncomingMessage
  readonly response: ServerResponse
}

/** The error lies in a message that has its answer already: a second one would be taken for the next message's. */
const isAnswered = ({ request, response }: Pair): boolean => !request.complete && response.headersSent

/** The answer is still delivered when it is whole. */
function endAnswered({ response }: Pair, socket: Duplex): void {
  if (response.writableEnded) (socket as Socket).destroySoon()
  else socket.destroy()
}

/** Serves a client's HTTP/1.1, over TLS or plain: by an inlet while its requests are usual ones, then by the server. */
export function serveHttp1(gate: GateContext, socket: Pipe): void {
  if (socket instanceof Readable) gather(socket)
  new Inlet(socket, {
    head: gate.monitor.deadlines.head,
    idle: KEPT_MS,
    serve: (request, reply) => serve(gate, socket, request, reply, forwardHttp1),
    leave: () => gate.http1Server.emit('connection', streamOf(socket)),
    slow: () => refuseSocket(gate, socket, 'http.slow-head'),
  })
}

/** What Node's server can be given: a stream, under the same flow. */
function streamOf(socket: Pipe): Duplex {
  if (!(socket instanceof WireSocket)) return socket as Socket
  const stream = new WireDuplex(socket)
  stream.on('error', () => stream.destroy())
  lingerOnClose(stream)
  const flow = flowOf(socket)
  if (flow) carry(flow, stream)
  return stream
}

/** Serves HTTP/2 on the connections it is given, with the limits that Node has for it. */
export function createHttp2Server(gate: GateOf): Http2SecureServer {
  const server = createSecureServer({
    // Asks no client for a certificate: without this Node parses its own 150 roots for it.
    ca: [],
    maxHeaderListPairs: 400,
    maxSessionMemory: 16,
    maxSessionInvalidFrames: 100,
    maxSessionRejectedStreams: 100,
    maxSettings: 32,
    maxOutstandingPings: 10,
    unknownProtocolTimeout: 1000,
    // Rapid reset (CVE-2023-44487).
    streamResetBurst: 200,
    streamResetRate: 20,
    settings: {
      maxConcurrentStreams: 100,
      maxHeaderListSize: MAX_HEAD,
      initialWindowSize: STREAM_WINDOW,
      enablePush: false,
      enableConnectProtocol: false,
    },
  })
  server.on('session', (session: ServerHttp2Session) => {
    const flow = flowOf(session.socket)
    if (flow) carry(flow, session)
    // The default, 64 KiB for all streams together, would make every upload wait for round trips.
    session.setLocalWindowSize(WINDOW)
    session.on('error', () => session.destroy())
    session.setTimeout(gate().monitor.deadlines.streamIdle, () => session.close())
  })
  server.on('request', (request, response) => {
    const session = request.stream.session
    if (session) serve(gate(), session, request, response, forwardHttp2)
  })
  // Without this Node answers by itself, and throws where the stream is closed already.
  server.on('checkContinue', (request, response) => {
    const { stream } = request
    const forward: Forward = (exchange, admitted) => {
      if (!stream.closed && !stream.destroyed) response.writeContinue()
      return forwardHttp2(exchange, admitted)
    }
    if (stream.session) serve(gate(), stream.session, request, response, forward)
  })
  // These two Node would refuse by itself, without a record.
  for (const [event, reason] of [
    ['connect', 'http.method-unknown'],
    ['checkExpectation', 'http.expectation-unknown'],
  ] as const)
    server.on(event, (request: Http2ServerRequest, response: Http2ServerResponse) => {
      const { session } = request.stream
      if (session) refuse(gate(), session, request, response, reason)
    })
  return server
}

function serve(
  gate: GateContext,
  carrier: object,
  request: ClientRequest,
  response: ClientResponse,
  forward: Forward,
): void {
  void exchangeOf(gate, carrier, request, response)?.run(forward)
}

/** Answers a request that nothing can allow, and records it. */
function refuse(
  gate: GateContext,
  carrier: object,
  request: ClientRequest,
  response: ClientResponse,
  reason: string,
): void {
  exchangeOf(gate, carrier, request, response)?.refuse(refusal(reason))
}

function exchangeOf(
  gate: GateContext,
  carrier: object,
  request: ClientRequest,
  response: ClientResponse,
): Exchange | null {
  const flow = flowOf(carrier)
  if (!flow) {
    response.destroy()
    return null
  }
  // Streams of Node's may break; the inlet's own have no errors.
  for (const events of [request, response]) if (events instanceof Stream) events.on('error', () => undefined)
  return new Exchange(gate, flow, request, response)
}

/** Answers on a socket whose parser has given up, and records it. */
function refuseSocket(gate: GateContext, socket: Duplex | Pipe, reason: string): void {
  const flow = flowOf(socket)
  if (!flow || !socket.writable || reason === 'net.closed') {
    socket.destroy()
    return
  }
  recordRefusedHead(gate, flow, reason)
  socket.write(rawProblem(refusal(reason), { profile: gate.monitor.plan.profile.name, host: flow.host }))
  ;(socket as Socket).destroySoon()
}

function recordRefusedHead(gate: GateContext, flow: Flow, reason: string): void {
  const { id, host, port } = flow
  const { status } = refusal(reason)
  gate.monitor.denied(host, port, reason, null)
  gate.monitor.note({
    k: 'http.denied',
    flow: id,
    method: '',
    host,
    port,
    path: '',
    reason,
    rule: null,
    status,
  })
}

function clientErrorReason(error: Error): string {
  const code = (error as { code?: string }).code ?? ''
  if (code === 'HPE_HEADER_OVERFLOW') return 'http.head-too-large'
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return 'http.slow-head'
  return code === 'ECONNRESET' || code === 'EPIPE' ? 'net.closed' : 'http.malformed'
}
