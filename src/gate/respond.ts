/** Writes answers to clients, the same for HTTP/1.1 and HTTP/2. */
import type { ServerResponse } from 'node:http'
import type { Http2ServerResponse } from 'node:http2'
import {
  PROBLEM_TYPE,
  problemBody,
  type ProblemContext,
  problemHeaders,
  problemText,
  type Refusal,
  titleOf,
} from './refuse.ts'
import type { Reply } from './reply.ts'

export type ClientResponse = ServerResponse | Http2ServerResponse | Reply

const isHttp2 = (response: ClientResponse): response is Http2ServerResponse => 'stream' in response

/** Sends a head. `headers` is name, value, name, value, …, duplicates in order. */
export function sendHead(response: ClientResponse, status: number, headers: readonly string[]): void {
  if (!isHttp2(response)) {
    response.sendDate = false
    response.writeHead(status, headers as string[])
    return
  }
  // Without a prototype: `constructor` is a header name like any other.
  const merged: Record<string, string | string[]> = Object.create(null)
  for (let at = 0; at < headers.length; at += 2) {
    const name = (headers[at] ?? '').toLowerCase()
    const value = headers[at + 1] ?? ''
    const known = merged[name]
    merged[name] = known === undefined ? value : [...(Array.isArray(known) ? known : [known]), value]
  }
  response.sendDate = false
  response.writeHead(status, merged)
}

/** Whether trailers can reach this client: always in HTTP/2, in HTTP/1.1 only when it asked (RFC 9110 §6.5.1). */
export function sendTrailers(response: ClientResponse, raw: readonly string[]): void {
  if (raw.length === 0) return
  const trailers: Record<string, string> = Object.create(null)
  for (let at = 0; at < raw.length; at += 2) trailers[(raw[at] ?? '').toLowerCase()] = raw[at + 1] ?? ''
  try {
    response.addTrailers(trailers)
  } catch {
    // A trailer that our side may not send: the answer is not whole without it.
    cut(response)
  }
}

/** Sends a refusal whole, whatever the client is still sending. Nothing when an answer has already begun. */
export function sendRefusal(
  response: ClientResponse,
  refusal: Refusal,
  context: ProblemContext,
  close: boolean,
): void {
  if (response.headersSent) {
    cut(response)
    return
  }
  const plain = isGit(response)
  const body = plain ? problemText(refusal, context) : problemBody(refusal, context)
  const headers = problemHeaders(refusal, body, plain ? 'text/plain; charset=utf-8' : PROBLEM_TYPE)
  if (isHttp2(response)) response.writeHead(refusal.status, headers)
  else
    response.writeHead(
      refusal.status,
      titleOf(refusal),
      close ? { ...headers, connection: 'close' } : headers,
    )
  ;(response as { end(body: Buffer): unknown }).end(body)
}

const isGit = (response: ClientResponse): boolean =>
  String(response.req.headers['user-agent'] ?? '').startsWith('git/')

/** Breaks an answer off so that the client sees it is not whole. */
export function cut(response: ClientResponse): void {
  // With an error, so that the stream is reset with a code that no client takes for a clean end.
  if (isHttp2(response)) response.stream.destroy(new Error('broken off'))
  else response.destroy()
}
