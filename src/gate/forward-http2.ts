/** Sends a request of an HTTP/2 client as HTTP/2 where the server speaks it: gRPC needs that. */
import type { ClientHttp2Stream, IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http2'
import { constants } from 'node:http2'
import { gather } from './backlog.ts'
import type { Admitted, Exchange } from './exchange.ts'
import { forwardHttp1 } from './forward-http1.ts'
import { inboundHead } from './outbound.ts'
import { pumpDown, through } from './pump.ts'
import { refusal } from './refuse.ts'
import { cut, sendHead, sendTrailers } from './respond.ts'
import { hasBody, type Opener, withoutCoding } from './opener.ts'
import { BodyScrubber } from './scrub.ts'
import { UpstreamError } from './upstream.ts'

/** Sends the request as HTTP/2, or as HTTP/1.1 where the server speaks only that. */
export async function forwardHttp2(exchange: Exchange, admitted: Admitted): Promise<void> {
  const session = await exchange.gate.http2.session(admitted.target)
  if (session === null) return await forwardHttp1(exchange, admitted)
  if (exchange.over) return
  exchange.requireAdmitted(admitted.inbound)
  const { dialler, http2 } = exchange.gate
  exchange.opened(dialler.factsOf(http2.socketOf(session)), admitted.target.rule.id)
  const stream = http2.request(session, headersOf(admitted), !admitted.inbound.hasBody)
  gather(stream, () => exchange.crowded())
  exchange.abort = () => {
    // Not `close(CANCEL)`: Node would first end the stream, and a body cut short would arrive as a whole one.
    stream.destroy(new UpstreamError('upstream.failed'))
  }
  stream.on('aborted', () => stopUpload(exchange, stream))
  if (admitted.inbound.hasBody) exchange.upload(admitted, stream)
  await download(exchange, admitted, stream)
}

function headersOf({ inbound, target, path, headers }: Admitted): OutgoingHttpHeaders {
  // Without a prototype: `constructor` is a header name like any other.
  const result: Record<string, string | string[]> = {
    __proto__: null as never,
    ':method': inbound.method,
    ':scheme': 'https',
    ':authority': target.authority,
    ':path': path,
  }
  for (let at = 0; at < headers.length; at += 2) {
    const name = (headers[at] ?? '').toLowerCase()
    const value = headers[at + 1] ?? ''
    if (name === 'host') continue
    const known = result[name]
    result[name] = known === undefined ? value : [...(Array.isArray(known) ? known : [known]), value]
  }
  if (inbound.contentLength !== null) result['content-length'] = String(inbound.contentLength)
  // The one hop-by-hop header that HTTP/2 keeps; gRPC servers ask for it.
  for (let at = 0; at < inbound.raw.length; at += 2)
    if (inbound.raw[at] === 'te' && inbound.raw[at + 1] === 'trailers') result.te = 'trailers'
  return result
}

/**
 * The server wants no more of a body. Node says nothing else of it: no `drain`, and no `close` either while something
 * waits to be written. A client that has its answer is told in the same way (RFC 9113 §8.1).
 */
function stopUpload(exchange: Exchange, stream: ClientHttp2Stream): void {
  // By us.
  if (stream.destroyed) return
  if (exchange.status === 0 || stream.rstCode !== constants.NGHTTP2_NO_ERROR) {
    stream.destroy()
    return
  }
  exchange.dropRest()
  if (!('stream' in exchange.request)) return
  const client = exchange.request.stream
  const tell = (): void => client.close(constants.NGHTTP2_NO_ERROR)
  if (client.writableFinished) tell()
  else client.once('finish', tell)
}

function download(exchange: Exchange, admitted: Admitted, stream: ClientHttp2Stream): Promise<void> {
  const { injection, inbound } = admitted
  const { response, gate } = exchange
  const moved = (bytes: number): void => exchange.received(admitted, bytes)
  return new Promise((resolve, reject) => {
    stream.on('error', (error) => reject(new UpstreamError('upstream.failed', error)))
    stream.on('response', (answer) => {
      const head = inboundHead(flatten(answer), injection)
      const { idle, streamIdle } = gate.monitor.deadlines
      exchange.status = answer[':status'] ?? 0
      exchange.scrubbed += head.scrubbed
      // gRPC streams are silent for as long as there is nothing to say.
      const long = /^(?:text\/event-stream|application\/grpc)/i.test(answer['content-type'] ?? '')
      exchange.expectWithin(long ? streamIdle : idle)
      let opener: Opener | null = null
      try {
        if (hasBody(inbound.method, exchange.status))
          opener = exchange.openerFor(admitted, answer['content-encoding'])
        sendHead(response, exchange.status, opener ? withoutCoding(head.headers) : head.headers)
      } catch (error) {
        // A head that Node will not send on, such as a status beyond 599.
        exchange.status = 0
        stream.destroy()
        reject(new UpstreamError('upstream.failed', error))
        return
      }
      moved(head.bytes)
      const scrubber = BodyScrubber.for(injection)
      scrubber?.on('scrubbed', () => exchange.scrubbed++)
      stream.on('trailers', (trailers) =>
        sendTrailers(response, inboundHead(flatten(trailers), injection).headers),
      )
      opener?.on('error', () => {
        exchange.refuse(refusal('upstream.failed', admitted.target.rule.id), inbound)
        stream.destroy()
      })
      const plain = opener ? through(stream, opener) : stream
      pumpDown(scrubber ? through(plain, scrubber) : plain, response, moved)
    })
    stream.on('close', () => {
      if (exchange.status === 0) reject(new UpstreamError('upstream.failed'))
      else if (stream.rstCode !== constants.NGHTTP2_NO_ERROR) cut(response)
      resolve()
    })
  })
}

function flatten(headers: IncomingHttpHeaders): string[] {
  return Object.entries(headers).flatMap(([name, value]) => {
    if (name.startsWith(':') || value === undefined) return []
    return Array.isArray(value) ? value.flatMap((one) => [name, one]) : [name, String(value)]
  })
}
