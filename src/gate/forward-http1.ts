/** Sends an admitted request as HTTP/1.1 and brings the answer back. */
import type { Transform } from 'node:stream'
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http'
import type { Admitted, Exchange } from './exchange.ts'
import { addFraming, inboundHead } from './outbound.ts'
import { pumpDown, UploadPump } from './pump.ts'
import { refusal } from './refuse.ts'
import { cut, sendHead, sendTrailers } from './respond.ts'
import { BodyScrubber, hasBody, isPlainTransfer, openerFor, withoutCoding } from './scrub.ts'
import { UpstreamError } from './upstream.ts'

const MAX_HEAD = 65_536
/** Interim answers before the real one; a flood of them would hold the exchange open for nothing. */
const MOST_INTERIM = 16

/** Settles when the exchange is over as far as upstream is concerned. */
export function forwardHttp1(exchange: Exchange, admitted: Admitted): Promise<void> {
  addFraming(admitted.headers, admitted.inbound)
  return attempt(exchange, admitted, true)
}

async function attempt(exchange: Exchange, admitted: Admitted, mayRetry: boolean): Promise<void> {
  const upstream = openRequest(exchange, admitted)
  exchange.abort = () => upstream.destroy()
  try {
    const answer = await exchanged(exchange, admitted, upstream)
    await answered(exchange, admitted, answer)
  } catch (error) {
    // A kept connection that the server had closed meanwhile: nothing was lost when there was no body to lose.
    const stale =
      upstream.reusedSocket && !admitted.inbound.hasBody && !exchange.over && exchange.status === 0
    if (stale && mayRetry && ['GET', 'HEAD', 'OPTIONS'].includes(admitted.inbound.method))
      return await attempt(exchange, admitted, false)
    throw error
  }
}

function openRequest(exchange: Exchange, { inbound, target, path, headers }: Admitted): ClientRequest {
  // `target` rides along to the agent, which shares and dials connections by it.
  const options = {
    agent: exchange.gate.agent,
    method: inbound.method,
    path,
    headers,
    setHost: false,
    servername: '',
    maxHeaderSize: MAX_HEAD,
    insecureHTTPParser: false,
    target,
  }
  const request = httpRequest(options)
  // Bounded in bytes. Node would cut the list at 2,000 in silence, and with it what says how to read the body.
  request.maxHeadersCount = 0
  return request
}

/** Sends the body and resolves with the answer's head. */
function exchanged(
  exchange: Exchange,
  admitted: Admitted,
  upstream: ClientRequest,
): Promise<IncomingMessage> {
  const { gate, request } = exchange
  return new Promise((resolve, reject) => {
    let interim = 0
    upstream.on('error', (error) =>
      reject(error instanceof UpstreamError ? error : new UpstreamError('upstream.failed', error)),
    )
    let answered = false
    upstream.on('close', () => {
      if (!answered) reject(new UpstreamError('upstream.failed'))
    })
    upstream.on('response', (answer) => {
      answered = true
      resolve(answer)
    })
    upstream.on('information', () => {
      if (++interim > MOST_INTERIM) upstream.destroy(new UpstreamError('upstream.failed'))
    })
    // 101 without an upgrade of ours: there is no protocol to switch to.
    upstream.on('upgrade', (_, socket) => socket.destroy())
    upstream.on('socket', (socket) => {
      try {
        exchange.requireAdmitted(admitted.inbound)
        exchange.opened(gate.dialler.factsOf(socket), admitted.target.rule.id)
      } catch (error) {
        upstream.destroy(error as Error)
      }
    })
    if (!admitted.inbound.hasBody) upstream.end()
    else
      new UploadPump(request, upstream, {
        monitor: gate.monitor,
        charge: (bytes) => exchange.charge(admitted.inbound, bytes),
        cut: (reason) => exchange.refuse(refusal(reason, admitted.target.rule.id), admitted.inbound),
        moved: (bytes) => {
          exchange.touch()
          exchange.flow.moved(bytes, 0)
        },
      })
  })
}

/** Passes the answer on; resolves when it is whole or broken off. */
export function answered(exchange: Exchange, admitted: Admitted, answer: IncomingMessage): Promise<void> {
  const { injection, inbound } = admitted
  const { response, flow, gate } = exchange
  const head = inboundHead(answer.rawHeaders, injection)
  const { idle, streamIdle } = gate.monitor.deadlines
  exchange.status = answer.statusCode ?? 0
  exchange.scrubbed += head.scrubbed
  exchange.expectWithin(/^text\/event-stream/i.test(answer.headers['content-type'] ?? '') ? streamIdle : idle)
  const scrubber = BodyScrubber.for(injection)
  let opener: Transform | null = null
  try {
    if (!isPlainTransfer(answer.headers['transfer-encoding'])) throw new Error('an unknown transfer coding')
    if (hasBody(inbound.method, exchange.status))
      opener = openerFor(injection, answer.headers['content-encoding'], exchange.status)
    sendHead(response, exchange.status, opener ? withoutCoding(head.headers) : head.headers)
  } catch (error) {
    // A head that Node will not send on, such as a status beyond 599 to an HTTP/2 client.
    answer.destroy()
    return Promise.reject(new UpstreamError('upstream.failed', error))
  }
  const moved = (bytes: number): void => {
    exchange.bytesIn += bytes
    exchange.touch()
    flow.moved(0, bytes)
  }
  moved(head.bytes)
  return new Promise((resolve) => {
    answer.on('error', () => undefined)
    answer.on('close', () => {
      // Shorter than announced: the client must see that, not a clean end.
      if (!answer.complete) cut(response)
      resolve()
    })
    if (scrubber) scrubber.on('scrubbed', () => exchange.scrubbed++)
    opener?.on('error', () => {
      cut(response)
      answer.destroy()
    })
    const plain = opener ? answer.pipe(opener) : answer
    const body = scrubber ? plain.pipe(scrubber) : plain
    answer.on('end', () => sendTrailers(response, inboundHead(answer.rawTrailers, injection).headers))
    pumpDown(body, response, moved)
  })
}
