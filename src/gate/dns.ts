/**
 * DNS messages (RFC 1035), the little of it that a stub resolver needs. Every byte of a query is the attacker's; the
 * parser accepts one question and nothing that has two readings.
 */
export interface DnsQuery {
  readonly id: number
  readonly recursionDesired: boolean
  /** Labels joined by dots, as spelled, without the root dot. */
  readonly name: string
  readonly type: number
  readonly class: number
  /** The question's bytes, echoed in the answer (0x20 case is kept). */
  readonly question: Buffer
}

export const TYPE_A = 1
export const RCODE = {
  ok: 0,
  formatError: 1,
  serverFailure: 2,
  noSuchName: 3,
  notImplemented: 4,
  refused: 5,
} as const

const HEADER = 12
/** A question of 255 octets, an OPT record with options: no honest query is longer. */
const MAX_QUERY = 1232
const TYPES: Readonly<Record<number, string>> = {
  1: 'A',
  2: 'NS',
  5: 'CNAME',
  6: 'SOA',
  12: 'PTR',
  15: 'MX',
  16: 'TXT',
  28: 'AAAA',
  33: 'SRV',
  35: 'NAPTR',
  64: 'SVCB',
  65: 'HTTPS',
  255: 'ANY',
}

export const typeName = (type: number): string => TYPES[type] ?? `TYPE${type}`

/** The query, or the response code that its form deserves; null when not even an answer is due. */
export function parseQuery(
  message: Buffer,
): DnsQuery | { readonly rcode: number; readonly id: number } | null {
  if (message.length < HEADER) return null
  const id = message.readUInt16BE(0)
  const flags = message.readUInt16BE(2)
  if (flags & 0x8000) return null
  if (message.length > MAX_QUERY) return { rcode: RCODE.formatError, id }
  if ((flags >> 11) & 0xf) return { rcode: RCODE.notImplemented, id }
  const [questions, answers, authorities, additional] = [4, 6, 8, 10].map((at) => message.readUInt16BE(at))
  if (questions !== 1 || answers !== 0 || authorities !== 0 || (additional ?? 0) > 1)
    return { rcode: RCODE.formatError, id }
  const name = readName(message)
  if (!name || message.length < name.end + 4) return { rcode: RCODE.formatError, id }
  const end = name.end + 4
  if (additional === 0 ? message.length !== end : !isOpt(message, end))
    return { rcode: RCODE.formatError, id }
  return {
    id,
    recursionDesired: (flags & 0x0100) !== 0,
    name: name.text,
    type: message.readUInt16BE(name.end),
    class: message.readUInt16BE(name.end + 2),
    question: message.subarray(HEADER, end),
  }
}

/** An uncompressed name of at most 255 octets; a pointer in a question is an attempt at something. */
function readName(message: Buffer): { text: string; end: number } | null {
  const labels: string[] = []
  let at = HEADER
  for (;;) {
    const length = message[at++]
    if (length === undefined || length > 63 || at + length > message.length) return null
    if (length === 0) break
    labels.push(message.toString('latin1', at, at + length))
    at += length
    if (at - HEADER > 254) return null
  }
  // A dot inside a label would read as two labels once joined.
  return labels.some((label) => label.includes('.')) ? null : { text: labels.join('.'), end: at }
}

/** One EDNS OPT record that ends with the message (RFC 6891 §6.1.2). */
function isOpt(message: Buffer, at: number): boolean {
  if (message.length < at + 11 || message[at] !== 0 || message.readUInt16BE(at + 1) !== 41) return false
  return message.length === at + 11 + message.readUInt16BE(at + 9)
}

/** An answer with one A record, or an empty one with `rcode`. */
export function buildAnswer(query: DnsQuery, rcode: number, address: string | null, ttl: number): Buffer {
  const head = header(query.id, rcode, query.recursionDesired, 1, address === null ? 0 : 1)
  if (address === null) return Buffer.concat([head, query.question])
  const record = Buffer.alloc(16)
  record.writeUInt16BE(0xc00c, 0) // the name of the question
  record.writeUInt16BE(TYPE_A, 2)
  record.writeUInt16BE(1, 4)
  record.writeUInt32BE(ttl, 6)
  record.writeUInt16BE(4, 10)
  address.split('.').forEach((part, index) => record.writeUInt8(Number(part), 12 + index))
  return Buffer.concat([head, query.question, record])
}

/** A bare header for a message whose question could not be read. */
export const buildError = (id: number, rcode: number): Buffer => header(id, rcode, false, 0, 0)

function header(id: number, rcode: number, rd: boolean, questions: number, answers: number): Buffer {
  const head = Buffer.alloc(HEADER)
  head.writeUInt16BE(id, 0)
  head.writeUInt16BE(0x8080 | (rd ? 0x0100 : 0) | rcode, 2) // response, recursion available
  head.writeUInt16BE(questions, 4)
  head.writeUInt16BE(answers, 6)
  return head
}
