/**
 * Host names as policy compares them: one canonical spelling, or nothing (N-06 to N-13).
 *
 * What comes off the wire (SNI, Host, :authority, CONNECT target, DNS question) is attacker-controlled. A spelling that
 * resolvers, TLS stacks and HTTP stacks could read differently is refused, never repaired: a repair here and another
 * one in the next program is how a filter and a dialler come to disagree.
 */
import { isIPv4, isIPv6 } from 'node:net'
import { domainToASCII, domainToUnicode } from 'node:url'

/** Canonical: lower case, no trailing dot, punycode; IPv4 as a dotted quad; IPv6 compressed, without brackets. */
export type Host = string & { readonly canonical: 'host' }

const MAX_NAME = 253
/** LDH labels of 1 to 63 characters, with an optional root dot. No underscore: no host name has one (RFC 1123). */
const NAME = /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.?$/
/** The last label decides whether every reader takes the name for an IPv4 address (WHATWG URL, "ends in a number"). */
const ENDS_IN_NUMBER = /(?:^|\.)(?:\d+|0x[0-9a-f]*)$/

/** The canonical host of `text`, or null when it is no host or has an ambiguous spelling. */
export function parseHost(text: string): Host | null {
  if (text.length === 0 || text.length > MAX_NAME + 1) return null
  if (text.includes(':')) return parseIPv6(text)
  const lower = text.toLowerCase()
  // `toLowerCase` folds U+212A (Kelvin sign) to `k`: the input itself must be ASCII.
  // oxlint-disable-next-line no-control-regex -- the range is the point
  if (!/^[\x21-\x7e]+$/.test(text) || !NAME.test(lower)) return null
  const name = lower.endsWith('.') ? lower.slice(0, -1) : lower
  if (name.length > MAX_NAME) return null
  if (ENDS_IN_NUMBER.test(name)) return parseIPv4(name)
  return /(?:^|\.)xn--/.test(name) ? parsePunycode(name) : (name as Host)
}

/** `127.1`, `0x7f.1`, `017700000001` mean an address to inet_aton: they become the dotted quad they stand for. */
function parseIPv4(name: string): Host | null {
  const host = URL.parse(`http://${name}/`)?.hostname ?? ''
  return isIPv4(host) ? (host as Host) : null
}

function parseIPv6(text: string): Host | null {
  const bare = text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1) : text
  // A zone id names an interface of whoever dials: never of ours.
  if (bare.includes('%') || !isIPv6(bare)) return null
  return (URL.parse(`http://[${bare}]/`)?.hostname.slice(1, -1) ?? null) as Host | null
}

/** Punycode that decodes and encodes back to itself; anything else has two readings. */
function parsePunycode(name: string): Host | null {
  const decoded = domainToUnicode(name)
  // What does not decode comes back as it was.
  if (decoded.split('.').some((label) => label.startsWith('xn--'))) return null
  return domainToASCII(decoded) === name ? (name as Host) : null
}

export const isAddress = (host: string): boolean => isIPv4(host) || isIPv6(host)

/** `host[:port]` as in a Host header or a CONNECT target. No userinfo, no leading zeros, port 1 to 65535. */
export function parseAuthority(text: string, defaultPort: number): { host: Host; port: number } | null {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:[\]]+)(?::([1-9]\d{0,4}))?$/.exec(text)
  const host = match && parseHost(match[1] ?? '')
  if (!host) return null
  const port = match[2] === undefined ? defaultPort : Number(match[2])
  return port > 65535 ? null : { host, port }
}

/** `host` or `host:port`, the port left out when it is the scheme's own. */
export function formatAuthority(host: string, port: number, tls: boolean): string {
  const name = isIPv6(host) ? `[${host}]` : host
  return port === (tls ? 443 : 80) ? name : `${name}:${port}`
}

/**
 * The canonical form of a rule's host, or null when it is malformed: a host, or `*.` and a name of two labels or more
 * (N-14: no bare `*`, no `*.com`, no star in any other place).
 */
export function parseHostPattern(text: string): string | null {
  if (!text.startsWith('*.')) return parseHost(text)
  const parent = parseHost(text.slice(2))
  return parent && !isAddress(parent) && parent.includes('.') ? `*.${parent}` : null
}

/**
 * Whether a rule's host admits a canonical host. `*.example.com` matches strict subdomains only; neither
 * `example.com` nor `notexample.com` (N-10). An address is matched by itself alone.
 */
export function matchesHost(pattern: string, host: string): boolean {
  if (pattern.charCodeAt(0) !== 0x2a) return pattern === host
  return host.length > pattern.length - 1 && host.endsWith(pattern.slice(1)) && !isAddress(host)
}
