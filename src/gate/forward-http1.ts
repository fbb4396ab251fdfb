/** Sends an admitted request as HTTP/1.1 and brings the answer back. */
import type { IncomingMessage } from 'node:http'
import { gather } from './backlog.ts'
import type { Admitted, Exchange } from './exchange.ts'
import { Answer, type Head, type Link, type Shortcut } from './link.ts'
import { addFraming, inboundHead } from './outbound.ts'
import { pumpDown, through } from './pump.ts'
import { refusal } from './refuse.ts'
import { Reply } from './reply.ts'
import { cut, sendHead, sendTrailers } from './respond.ts'
import { hasBody, type Opener, withoutCoding } from './opener.ts'
import { BodyScrubber, isPlainTransfer, masked } from './scrub.ts'
import { UpstreamError } from './upstream.ts'

/** A body beyond this is worth a connection that it can be passed to natively. */
const BULK = 256 << 10

/** Settles when the exchange is over as far as upstream is concerned. */
export function forwardHttp1(exchange: Exchange, admitted: Admitted): Promise<void> {
  addFraming(admitted.headers, admitted.inbound)
  return attempt(exchange, admitted, true)
}

async function attempt(exchange: Exchange, admitted: Admitted, mayRetry: boolean): Promise<void> {
  const { links } = exchange.gate
  const bulk = (admitted.inbound.contentLength ?? 0) > BULK
  const kept = mayRetry ? links.kept(admitted.target, bulk) : null
  const link = kept ?? (await links.open(admitted.target))
  const head = headOf(admitted)
  // Over meanwhile: nothing was sent on it, so another request can have it.
  if (exchange.over) return link.giveBack()
  exchange.abort = () => link.abort(head)
  try {
    const answer = await exchanged(exchange, admitted, link, head)
    if (answer) await answered(exchange, admitted, answer)
  } catch (error) {
    // A kept connection that the server had closed meanwhile: nothing was lost when there was no body to lose.
    const stale = link.served > 1 && !admitted.inbound.hasBody && !exchange.over && exchange.status === 0
    if (stale && mayRetry && ['GET', 'HEAD', 'OPTIONS'].includes(admitted.inbound.method))
      return await attempt(exchange, admitted, false)
    throw error
  }
}

function headOf({ inbound, path, headers }: Admitted): Head {
  const length = inbound.hasBody ? inbound.contentLength : 0
  return { method: inbound.method, path, headers, length }
}

/** Sends the request and resolves with the answer's head, or null when all of it is with the client. @throws UpstreamError */
function exchanged(exchange: Exchange, admitted: Admitted, link: Link, head: Head): Promise<Answer | null> {
  const { gate } = exchange
  try {
    exchange.requireAdmitted(admitted.inbound)
    exchange.opened(gate.dialler.factsOf(link.socket), admitted.target.rule.id)
  } catch (error) {
    link.giveBack()
    throw error
  }
  const answer = link.send(head, shortcutOf(exchange, admitted))
  if (admitted.inbound.hasBody) exchange.upload(admitted, link)
  return answer
}

/** For an answer in which nothing is to be looked for: where no credential was injected, none can be echoed. */
function shortcutOf(exchange: Exchange, admitted: Admitted): Shortcut | null {
  const { response } = exchange
  const to = admitted.injection === null && response instanceof Reply ? response.shortcut : null
  if (to === null || !(response instanceof Reply)) return null
  return {
    to,
    passed: ({ status, headBytes, bodyBytes }) => {
      exchange.status = status
      exchange.received(admitted, headBytes + bodyBytes)
      response.passed()
    },
  }
}

/** An answer's head and its body, from a link or from node:http. */
type Source = Answer | IncomingMessage

/** All values of a header, as one. */
function field({ rawHeaders: raw }: Source, name: string): string | undefined {
  let all: string | undefined
  for (let at = 0; at < raw.length; at += 2) {
    const spelled = raw[at] ?? ''
    if (spelled.length !== name.length || spelled.toLowerCase() !== name) continue
    all = all === undefined ? raw[at + 1] : `${all}, ${raw[at + 1]}`
  }
  return all
}

/** Passes the answer on; resolves when it is whole or broken off. */
export function answered(exchange: Exchange, admitted: Admitted, answer: Source): Promise<void> {
  const { injection, inbound } = admitted
  const { response, gate } = exchange
  if (!(answer instanceof Answer)) gather(answer, () => exchange.crowded())
  const head = inboundHead(answer.rawHeaders, injection)
  const { idle, streamIdle } = gate.monitor.deadlines
  exchange.status = answer.statusCode ?? 0
  exchange.scrubbed += head.scrubbed
  exchange.expectWithin(/^text\/event-stream/i.test(field(answer, 'content-type') ?? '') ? streamIdle : idle)
  let opener: Opener | null = null
  try {
    if (!isPlainTransfer(field(answer, 'transfer-encoding'))) throw new Error('an unknown transfer coding')
    if (hasBody(inbound.method, exchange.status))
      opener = exchange.openerFor(admitted, field(answer, 'content-encoding'))
    sendHead(response, exchange.status, opener ? withoutCoding(head.headers) : head.headers)
  } catch (error) {
    // A head that Node will not send on, such as a status beyond 599 to an HTTP/2 client.
    answer.destroy()
    return Promise.reject(new UpstreamError('upstream.failed', error))
  }
  const moved = (bytes: number): void => exchange.received(admitted, bytes)
  moved(head.bytes)
  // Broken off before anybody could listen.
  if (answer.destroyed && !answer.complete) {
    cut(response)
    return Promise.resolve()
  }
  const scrubbed = (): void => void exchange.scrubbed++
  const whole = opener || !(answer instanceof Answer) ? null : answer.takeWhole()
  if (whole) {
    for (const chunk of masked(whole, injection, scrubbed)) {
      moved(chunk.length)
      response.write(chunk)
    }
    ;(response as { end(): unknown }).end()
    return Promise.resolve()
  }
  const scrubber = BodyScrubber.for(injection)
  return new Promise((resolve) => {
    answer.on('error', () => undefined)
    answer.on('close', () => {
      // Shorter than announced: the client must see that, not a clean end.
      if (!answer.complete) cut(response)
      resolve()
    })
    scrubber?.on('scrubbed', scrubbed)
    opener?.on('error', () => {
      exchange.refuse(refusal('upstream.failed', admitted.target.rule.id), inbound)
      answer.destroy()
    })
    const plain = opener ? through(answer, opener) : answer
    const body = scrubber ? through(plain, scrubber) : plain
    answer.on('end', () => sendTrailers(response, inboundHead(answer.rawTrailers, injection).headers))
    pumpDown(body, response, moved)
  })
}
