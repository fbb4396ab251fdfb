/**
 * Reads the server name out of a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3). Every byte is the attacker's.
 *
 * Strict on purpose: a hello that two parsers could read differently is *unreadable*, never *without a name*
 * (N-21).
 */
export interface ClientHello {
  /** As sent; null when there is no server_name extension. */
  readonly serverName: string | null
  readonly alpn: readonly string[]
  /** It offers TLS 1.3 with a suite, a group and a signature that everybody has. */
  readonly modern: boolean
}

export type HelloResult =
  | { readonly kind: 'hello'; readonly hello: ClientHello }
  | { readonly kind: 'incomplete' }
  | { readonly kind: 'unreadable'; readonly why: string }

const HANDSHAKE = 22
const CLIENT_HELLO = 1
const MAX_RECORD = 16_384
/** Hellos with post-quantum key shares take some 2 KiB. */
const MAX_HELLO = 32_768
/** Nobody needs more; a hello in one-byte records would cost us quadratic time. */
const MAX_RECORDS = 32
const SERVER_NAME = 0
const ALPN = 16
const SUPPORTED_GROUPS = 10
const SIGNATURE_ALGORITHMS = 13
const SUPPORTED_VERSIONS = 43

class Unreadable extends Error {}

/** Parses the beginning of a TLS connection. `incomplete`: call again with more bytes. */
export function parseClientHello(bytes: Buffer): HelloResult {
  try {
    const message = reassemble(bytes)
    return message ? { kind: 'hello', hello: parseBody(new Cursor(message)) } : { kind: 'incomplete' }
  } catch (error) {
    if (error instanceof Unreadable) return { kind: 'unreadable', why: error.message }
    throw error
  }
}

/** The hello's body, put together from as many records as it was split into; null while some are missing. */
function reassemble(bytes: Buffer): Buffer | null {
  const parts: Buffer[] = []
  let have = 0
  for (let at = 0; bytes.length >= at + 5; ) {
    const length = bytes.readUInt16BE(at + 3)
    if (bytes[at] !== HANDSHAKE || bytes[at + 1] !== 3) throw new Unreadable('not a handshake record')
    if (length === 0 || length > MAX_RECORD) throw new Unreadable('record length')
    const part = bytes.subarray(at + 5, at + 5 + length)
    if (parts.push(part) > MAX_RECORDS) throw new Unreadable('too many records')
    have += part.length
    const whole = helloLength(parts, have)
    if (whole !== null && have >= whole) {
      // Bytes after the hello, in the same record, would be a message that we did not look at.
      if (have > whole || part.length < length) throw new Unreadable('more than a hello in its record')
      return Buffer.concat(parts).subarray(4)
    }
    if (part.length < length) return null
    at += 5 + length
  }
  return null
}

/** Length of the whole handshake message with its header, or null before the header is complete. */
function helloLength(parts: readonly Buffer[], have: number): number | null {
  if (have < 4) return null
  const head = parts.length === 1 ? parts[0] : Buffer.concat(parts)
  if (!head || head[0] !== CLIENT_HELLO) throw new Unreadable('not a ClientHello')
  const length = head.readUIntBE(1, 3)
  if (length > MAX_HELLO) throw new Unreadable('hello too long')
  return length + 4
}

function parseBody(body: Cursor): ClientHello {
  body.skip(2 + 32)
  if (body.vector(1).length > 32) throw new Unreadable('session id')
  const suites = body.vector(2)
  if (suites.length === 0 || suites.length % 2 !== 0) throw new Unreadable('cipher suites')
  if (body.vector(1).length === 0) throw new Unreadable('compression methods')
  // Without extensions there is no name, and no TLS of this decade.
  const extensions = body.atEnd ? new Cursor(Buffer.alloc(0)) : new Cursor(body.vector(2))
  if (!body.atEnd) throw new Unreadable('bytes after the extensions')
  return parseExtensions(extensions, offers(suites, TLS13_SUITES))
}

/** AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305 of TLS 1.3 (RFC 8446 §B.4). */
const TLS13_SUITES: readonly number[] = [0x1301, 0x1302, 0x1303]
/** What an extension must offer, one of these, behind how long a length (RFC 8446 §4.2). */
const MODERN: Readonly<Record<number, { readonly prefix: 1 | 2; readonly wanted: readonly number[] }>> = {
  [SUPPORTED_VERSIONS]: { prefix: 1, wanted: [0x0304] },
  // secp256r1, secp384r1, x25519
  [SUPPORTED_GROUPS]: { prefix: 2, wanted: [0x0017, 0x0018, 0x001d] },
  // ecdsa_secp256r1_sha256: our certificates have no other key.
  [SIGNATURE_ALGORITHMS]: { prefix: 2, wanted: [0x0403] },
}

/** Whether one of the numbers, two bytes each, is wanted. */
function offers(list: Buffer, wanted: readonly number[]): boolean {
  for (let at = 0; at + 1 < list.length; at += 2) if (wanted.includes(list.readUInt16BE(at))) return true
  return false
}

function parseExtensions(extensions: Cursor, suites: boolean): ClientHello {
  const seen = new Set<number>()
  let serverName: string | null = null
  let alpn: string[] = []
  let modern = suites ? 0 : -1
  while (!extensions.atEnd) {
    const type = extensions.uint(2)
    const data = new Cursor(extensions.vector(2))
    if (seen.has(type)) throw new Unreadable('an extension appears twice')
    seen.add(type)
    if (type === SERVER_NAME) serverName = parseServerName(data)
    if (type === ALPN) alpn = parseAlpn(data)
    const offer = MODERN[type]
    if (offer && modern >= 0 && offers(data.rest(offer.prefix), offer.wanted)) modern++
  }
  return { serverName, alpn, modern: modern === Object.keys(MODERN).length }
}

/** Exactly one entry, of type host_name: a list of two is a choice that somebody else would make differently. */
function parseServerName(data: Cursor): string {
  const list = new Cursor(data.vector(2))
  if (!data.atEnd) throw new Unreadable('bytes after the server name list')
  if (list.uint(1) !== 0) throw new Unreadable('server name type')
  const name = list.vector(2)
  if (!list.atEnd) throw new Unreadable('more than one server name')
  if (name.length === 0 || name.some((byte) => byte <= 0x20 || byte >= 0x7f))
    throw new Unreadable('server name')
  return name.toString('latin1')
}

function parseAlpn(data: Cursor): string[] {
  const list = new Cursor(data.vector(2))
  if (!data.atEnd || list.atEnd) throw new Unreadable('ALPN list')
  const names: string[] = []
  while (!list.atEnd) names.push(list.vector(1).toString('latin1'))
  return names
}

/** Reads big-endian numbers and length-prefixed vectors; running over the end makes the hello unreadable. */
class Cursor {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  skip(count: number): void {
    this.#at += count
    if (this.#at > this.#bytes.length) throw new Unreadable('truncated')
  }

  /** What lies behind a length of `prefix` bytes; whoever negotiates by it reads it strictly. */
  rest(prefix: 1 | 2): Buffer {
    return this.#bytes.subarray(this.#at + prefix)
  }

  uint(size: 1 | 2): number {
    const at = this.#at
    this.skip(size)
    return this.#bytes.readUIntBE(at, size)
  }

  vector(size: 1 | 2): Buffer {
    const length = this.uint(size)
    const at = this.#at
    this.skip(length)
    return this.#bytes.subarray(at, at + length)
  }
}
