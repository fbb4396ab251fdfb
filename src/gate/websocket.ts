/** WebSocket upgrades: decided as the GET they are, then counted in both directions, echoes masked (N-27, X-15). */
import { request as httpRequest, ServerResponse, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { GateContext } from './context.ts'
import { type Admitted, Exchange } from './exchange.ts'
import type { Flow } from './flow.ts'
import { answered } from './forward-http1.ts'
import { FrameScrubber } from './frames.ts'
import { inboundHead } from './outbound.ts'
import { refusal } from './refuse.ts'
import { Splice } from './splice.ts'
import { UpstreamError } from './upstream.ts'

export const isWebSocket = (request: IncomingMessage): boolean =>
  request.headers.upgrade?.toLowerCase() === 'websocket'

/** Handles the `upgrade` event of the server inside flows. */
export async function upgradeWebSocket(
  gate: GateContext,
  flow: Flow,
  request: IncomingMessage,
  client: Duplex,
  early: Buffer,
): Promise<void> {
  client.on('error', () => client.destroy())
  const response = new ServerResponse(request)
  try {
    response.assignSocket(client as Socket)
  } catch {
    // An upgrade pipelined behind a request that is not answered yet: no client of good will does that.
    flow.denied('http.malformed')
    client.destroy()
    return
  }
  response.shouldKeepAlive = false
  // The server has let go of this socket: after a refusal it is ours to close.
  response.once('finish', () => client.end())
  const exchange = new Exchange(gate, flow, request, response)
  await exchange.run((_, admitted) => open(exchange, admitted, response, client, early))
}

async function open(
  exchange: Exchange,
  admitted: Admitted,
  response: ServerResponse,
  client: Duplex,
  early: Buffer,
): Promise<void> {
  if (admitted.inbound.method !== 'GET' || admitted.inbound.hasBody) throw new UpstreamError('http.malformed')
  const { gate } = exchange
  const socket = await gate.dialler.open(admitted.target, ['http/1.1'])
  if (exchange.over) {
    socket.destroy()
    return
  }
  try {
    exchange.requireAdmitted(admitted.inbound)
    exchange.opened(gate.dialler.factsOf(socket), admitted.target.rule.id)
  } catch (error) {
    socket.destroy()
    throw error
  }
  const secret = (admitted.injection?.needles.length ?? 0) > 0
  const offered = secret ? withoutExtensions(admitted.headers) : admitted.headers
  const headers = [...offered, 'Connection', 'Upgrade', 'Upgrade', 'websocket']
  const upstream = httpRequest({
    createConnection: () => socket,
    path: admitted.path,
    headers,
    setHost: false,
    maxHeaderSize: 65_536,
  })
  upstream.maxHeadersCount = 0
  exchange.abort = () => upstream.destroy()
  await new Promise<void>((resolve, reject) => {
    const broken = (error?: Error): void => reject(new UpstreamError('upstream.failed', error))
    upstream.on('error', broken)
    upstream.on('close', broken)
    // The server answered with plain HTTP: the client gets that answer, like any other.
    upstream.on('response', (answer) => {
      upstream.off('close', broken)
      answered(exchange, admitted, answer).then(resolve, reject)
    })
    upstream.on('upgrade', (answer, _, head) => {
      if (secret && answer.headers['sec-websocket-extensions'] !== undefined) {
        socket.destroy()
        broken()
        return
      }
      response.detachSocket(client as Socket)
      switched(exchange, admitted, answer, client, socket, early, head)
      resolve()
    })
    upstream.end()
  })
}

/** Compressed frames would hide an echo of the credential, and the agent could ask for them. */
const withoutExtensions = (headers: readonly string[]): string[] =>
  headers.flatMap((name, at) =>
    at % 2 === 1 || name.toLowerCase() === 'sec-websocket-extensions' ? [] : [name, headers[at + 1] ?? ''],
  )

/** Frames pass as they are, but for an echoed credential; what goes out is charged to the session's minute and total. */
function switched(
  exchange: Exchange,
  { inbound, injection, target }: Admitted,
  answer: IncomingMessage,
  client: Duplex,
  upstream: Socket,
  early: Buffer,
  head: Buffer,
): void {
  const { gate, flow } = exchange
  const { headers, scrubbed } = inboundHead(answer.rawHeaders, injection)
  exchange.status = 101
  exchange.scrubbed += scrubbed
  let text = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
  for (let at = 0; at < headers.length; at += 2) text += `${headers[at]}: ${headers[at + 1]}\r\n`
  client.write(`${text}\r\n`, 'latin1')
  if (early.length > 0) client.unshift(early)
  if (head.length > 0) upstream.unshift(head)
  exchange.expectWithin(gate.monitor.deadlines.streamIdle)
  const through = FrameScrubber.for(injection)
  through?.on('scrubbed', () => exchange.scrubbed++)
  const splice = new Splice(client, upstream, {
    monitor: gate.monitor,
    ...(through ? { through } : {}),
    // A long-lived stream outlives decisions: the question is asked again for each chunk.
    charge: (bytes) => exchange.charge(inbound, bytes),
    cut: (reason) => exchange.refuse(refusal(reason, target.rule.id), inbound),
    movedOut: (bytes) => {
      exchange.touch()
      flow.moved(bytes, 0)
    },
    movedIn: (bytes) => {
      exchange.touch()
      exchange.meter.turn()
      exchange.bytesIn += bytes
      flow.moved(0, bytes)
    },
    closed: () => exchange.finish(),
  })
  exchange.abort = () => splice.destroy()
}
