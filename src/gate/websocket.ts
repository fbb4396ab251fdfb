/** WebSocket upgrades: decided as the GET they are, then counted in both directions (CASES.md N-27). */
import { request as httpRequest, ServerResponse, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { GateContext } from './context.ts'
import { type Admitted, Exchange } from './exchange.ts'
import type { Flow } from './flow.ts'
import { inboundHead } from './outbound.ts'
import { pumpDown } from './pump.ts'
import { refusal } from './refuse.ts'
import { Splice } from './splice.ts'
import { sendHead } from './respond.ts'
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
  const headers = [...admitted.headers, 'Connection', 'Upgrade', 'Upgrade', 'websocket']
  const upstream = httpRequest({
    createConnection: () => socket,
    path: admitted.path,
    headers,
    setHost: false,
    maxHeaderSize: 65_536,
  })
  exchange.abort = () => upstream.destroy()
  await new Promise<void>((resolve, reject) => {
    upstream.on('error', (error) => reject(new UpstreamError('upstream.failed', error)))
    upstream.on('close', () => reject(new UpstreamError('upstream.failed')))
    upstream.on('response', (answer) => {
      decline(exchange, admitted, answer)
      resolve()
    })
    upstream.on('upgrade', (answer, _, head) => {
      response.detachSocket(client as Socket)
      switched(exchange, admitted, answer, client, socket, early, head)
      resolve()
    })
    upstream.end()
  })
}

/** The server answered with plain HTTP: the client gets that answer. */
function decline(exchange: Exchange, { injection }: Admitted, answer: IncomingMessage): void {
  const head = inboundHead(answer.rawHeaders, injection)
  exchange.status = answer.statusCode ?? 0
  exchange.scrubbed += head.scrubbed
  sendHead(exchange.response, exchange.status, head.headers)
  pumpDown(answer, exchange.response, (bytes) => {
    exchange.bytesIn += bytes
    exchange.flow.moved(0, bytes)
  })
}

/** Frames pass as they are; what goes out is charged to the session's minute and total. */
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
  const splice = new Splice(client, upstream, {
    monitor: gate.monitor,
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
