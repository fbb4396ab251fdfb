/** Answers the session's DNS queries out of the name book. No query ever leaves the machine (N-03, N-04). */
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { createServer, type Server, type Socket } from 'node:net'
import { type Host, isAddress, parseHost } from '../lib/host.ts'
import { buildAnswer, buildError, type DnsQuery, parseQuery, RCODE, TYPE_A, typeName } from './dns.ts'
import type { Monitor } from './monitor.ts'
import type { NameBook } from './names.ts'

/** Seconds. The binding holds for the whole session. */
const TTL = 300
/** A repeated question is recorded again only after this long: a busy client asks the same thing all the time. */
const REPEAT_MS = 60_000
/** Distinct questions remembered for that; beyond it every question is recorded. */
const MOST_REMEMBERED = 8192
const TCP_IDLE_MS = 10_000

interface Outcome {
  readonly rcode: number
  readonly address: string | null
  readonly reason: string | null
  readonly rule: string | null
}

/** Decides, records and answers single messages; the servers below only carry them. */
export class DnsResponder {
  readonly #names: NameBook
  readonly #monitor: Monitor
  readonly #recorded = new Map<string, number>()

  constructor(names: NameBook, monitor: Monitor) {
    this.#names = names
    this.#monitor = monitor
  }

  /** The answer to one message, or null when it deserves none. */
  answer(message: Buffer): Buffer | null {
    const query = parseQuery(message)
    if (query === null) return null
    if ('rcode' in query) return buildError(query.id, query.rcode)
    let outcome = this.#resolve(query)
    try {
      this.#record(query, outcome)
    } catch {
      outcome = { rcode: RCODE.serverFailure, address: null, reason: null, rule: null }
    }
    return buildAnswer(query, outcome.rcode, outcome.address, TTL)
  }

  #resolve(query: DnsQuery): Outcome {
    // Service names (`_http._tcp.…`) are about the host behind their labels.
    const host = parseHost(query.type === TYPE_A ? query.name : query.name.replace(/^(?:_[^.]+\.)+/, ''))
    if (this.#monitor.stopped) return empty(RCODE.serverFailure, 'session.stopped')
    if (query.class !== 1) return empty(RCODE.refused, 'dns.class')
    // AAAA, HTTPS, SVCB, SRV, MX, TXT …: the name may exist, that record does not.
    if (query.type !== TYPE_A) return empty(RCODE.ok, this.#refusalOf(host))
    if (host === null || isAddress(host)) return empty(RCODE.noSuchName, 'dns.malformed-name')
    if (host === 'localhost' || host.endsWith('.localhost'))
      return { rcode: RCODE.ok, address: '127.0.0.1', reason: null, rule: null }
    const binding = this.#names.bind(host)
    if (binding.kind === 'none') return empty(RCODE.refused, binding.reason)
    return { rcode: RCODE.ok, address: binding.address, reason: binding.reason, rule: binding.rule }
  }

  /** Why a name of an empty answer is refused as well; nothing is bound for it. */
  #refusalOf(host: Host | null): string | null {
    if (host === null) return 'dns.malformed-name'
    const decision = this.#monitor.decide({ kind: 'dns.query', name: host, type: 'A' })
    return decision.effect === 'allow' ? null : decision.reason
  }

  #record(query: DnsQuery, { address, reason, rule }: Outcome): void {
    const type = typeName(query.type)
    const key = `${query.name.toLowerCase()} ${type} ${reason}`
    const now = performance.now()
    if (now - (this.#recorded.get(key) ?? -REPEAT_MS) < REPEAT_MS) return
    if (this.#recorded.size >= MOST_REMEMBERED) this.#recorded.clear()
    this.#recorded.set(key, now)
    if (reason !== null) this.#monitor.denied(query.name, 53, reason, rule)
    this.#monitor.record({ k: 'dns.query', name: query.name, type, answer: address, reason, rule })
  }
}

const empty = (rcode: number, reason: string | null): Outcome => ({
  rcode,
  address: null,
  reason,
  rule: null,
})

/** DNS over UDP. */
export function createUdpServer(responder: DnsResponder): UdpSocket {
  const socket = createSocket('udp4')
  socket.on('message', (message, peer) => {
    // Nobody can be answered there, and Node would throw.
    if (peer.port === 0) return
    const answer = responder.answer(message)
    if (answer) socket.send(answer, peer.port, peer.address, () => undefined)
  })
  // An unreachable peer of an earlier answer; the socket itself goes on.
  socket.on('error', () => undefined)
  return socket
}

/** DNS over TCP: messages with a two-byte length (RFC 7766). */
export function createTcpServer(responder: DnsResponder): Server {
  return createServer((socket) => {
    socket.setTimeout(TCP_IDLE_MS, () => socket.destroy())
    socket.on('error', () => socket.destroy())
    let pending: Buffer = Buffer.alloc(0)
    socket.on('data', (chunk) => {
      pending = answerAll(responder, socket, Buffer.concat([pending, chunk]))
      // A client that asks and never reads must not make us keep the answers.
      if (socket.writableNeedDrain) socket.pause()
    })
    socket.on('drain', () => socket.resume())
  })
}

/** Answers every whole message in `bytes`; returns the rest. */
function answerAll(responder: DnsResponder, socket: Socket, bytes: Buffer): Buffer {
  let rest = bytes
  while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
    const length = rest.readUInt16BE(0)
    const answer = responder.answer(rest.subarray(2, 2 + length))
    rest = rest.subarray(2 + length)
    if (!answer) {
      socket.destroy()
      return Buffer.alloc(0)
    }
    const prefix = Buffer.alloc(2)
    prefix.writeUInt16BE(answer.length)
    socket.write(Buffer.concat([prefix, answer]))
  }
  return rest
}
