/** Rewrites heads: what goes upstream, what comes back. */
import type { NetworkRule } from '../profile/plan.ts'
import { canonicalName, type CredentialBook, echoes, type Injection } from './credential.ts'
import type { Inbound } from './inbound.ts'
import type { Target } from './upstream.ts'

/** Never forwarded, in either direction (RFC 9110 §7.6.1). */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-authentication-info',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
])
/** Set anew, or a way to make the server see another request than the one decided on (N-25). */
const DROPPED_REQUEST = new Set([
  ...HOP_BY_HOP,
  'host',
  'content-length',
  'expect',
  'forwarded',
  'via',
  'alt-used',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-forwarded-proto',
  'x-forwarded-server',
  'x-real-ip',
  'x-http-method',
  'x-http-method-override',
  'x-method-override',
  'x-original-url',
  'x-rewrite-url',
  'x-unix-socket',
  'x-upstream-https-proxy',
])
/** Never passed on to a client. Beside the hop's own: invitations to go round the gate, another port or protocol (N-26). */
export const DROPPED_RESPONSE: ReadonlySet<string> = new Set([...HOP_BY_HOP, 'alt-svc', 'alternate-protocol'])

export type Outbound =
  | { readonly kind: 'send'; readonly target: string; readonly headers: string[] }
  | { readonly kind: 'foreign'; readonly header: string; readonly value: string }
  | { readonly kind: 'misplaced' }
  | { readonly kind: 'malformed' }

/** The head that goes upstream: the client's, minus what it may not say, plus what the rule injects. */
export function outboundHead(
  inbound: Inbound,
  target: Target,
  book: CredentialBook,
  injection: Injection | null,
): Outbound {
  const vetted = book.vetTarget(inbound.target, target.rule)
  if ('foreign' in vetted) return { kind: 'foreign', header: `?${vetted.foreign}`, value: vetted.value }
  if (book.holdsPlaceholder(vetted.target)) return { kind: 'misplaced' }
  const headers: string[] = ['Host', target.authority]
  const named = connectionNames(inbound.raw)
  if (named === null) return { kind: 'malformed' }
  const cookies: string[] = []
  for (let at = 0; at < inbound.raw.length; at += 2) {
    const name = inbound.raw[at] ?? ''
    const value = inbound.raw[at + 1] ?? ''
    if (name.charCodeAt(0) === 0x3a) continue
    const lower = name.toLowerCase()
    const canonical = canonicalName(lower)
    if (DROPPED_REQUEST.has(canonical) || named.includes(lower)) continue
    if (injection && canonical === 'accept-encoding') continue
    if (book.isCredentialHeader(canonical)) {
      const verdict = vetHeader(name, value, target.rule, book)
      if (verdict !== null) return verdict
      if (target.rule.credential !== null) continue
    } else if (book.holdsPlaceholder(value)) return { kind: 'misplaced' }
    // HTTP/2 splits cookies into crumbs; HTTP/1.1 servers expect one header.
    if (lower === 'cookie') cookies.push(value)
    else headers.push(name, value)
  }
  if (cookies.length > 0) headers.push('Cookie', cookies.join('; '))
  // Uncompressed, so that an echo of the credential can be seen and masked: otherwise the client could hide it.
  if (injection) headers.push('Accept-Encoding', 'identity', injection.header, injection.value)
  return { kind: 'send', target: vetted.target, headers }
}

/** Null when a client's credential header is as it should be. Where the rule injects, it will be replaced. */
function vetHeader(name: string, value: string, rule: NetworkRule, book: CredentialBook): Outbound | null {
  if (rule.credential === null) return book.holdsPlaceholderEncoded(value) ? { kind: 'misplaced' } : null
  if (value.trim() === '' || book.isOwnPlaceholder(value, rule.credential)) return null
  return book.holdsPlaceholderEncoded(value)
    ? { kind: 'misplaced' }
    : { kind: 'foreign', header: name, value }
}

const NO_NAMES: readonly string[] = []

/** Headers that `Connection` names as hop-by-hop; null when it names one that carries the message itself. */
function connectionNames(raw: readonly string[]): readonly string[] | null {
  let names: string[] | null = null
  for (let at = 0; at < raw.length; at += 2)
    if (raw[at]?.length === 10 && raw[at]?.toLowerCase() === 'connection')
      names = [...(names ?? []), ...(raw[at + 1] ?? '').toLowerCase().split(',')]
  if (names === null) return NO_NAMES
  const trimmed = names.map((name) => name.trim())
  return trimmed.some((name) => ['host', 'content-length', 'cookie', 'authorization'].includes(name))
    ? null
    : trimmed
}

/** Framing headers for HTTP/1.1 upstream: as the client framed it, and never left to a guess. */
export function addFraming(headers: string[], inbound: Inbound): void {
  if (inbound.contentLength !== null) headers.push('Content-Length', String(inbound.contentLength))
  else if (inbound.hasBody) headers.push('Transfer-Encoding', 'chunked')
  else if (['POST', 'PUT', 'PATCH'].includes(inbound.method)) headers.push('Content-Length', '0')
}

/** A response head without what stays between us and the server. `scrubbed` counts echoes of the credential. */
export function inboundHead(
  raw: readonly string[],
  injection: Injection | null,
): { headers: string[]; scrubbed: number; bytes: number } {
  const headers: string[] = []
  let scrubbed = 0
  let bytes = 0
  for (let at = 0; at < raw.length; at += 2) {
    const name = raw[at] ?? ''
    const value = raw[at + 1] ?? ''
    bytes += name.length + value.length + 4
    if (DROPPED_RESPONSE.has(name.toLowerCase())) continue
    if (injection && (echoes(value, injection) || echoes(name, injection))) scrubbed++
    else headers.push(name, value)
  }
  return { headers, scrubbed, bytes }
}
