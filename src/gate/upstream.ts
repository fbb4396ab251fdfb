/** The way out: resolve, vet, dial exactly the vetted address, verify the certificate. */
import { Resolver } from 'node:dns/promises'
import type { EventEmitter } from 'node:events'
import { connect as connectTcp, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import {
  checkServerIdentity,
  connect as connectTls,
  createSecureContext,
  getCACertificates,
  type SecureContext,
  type TLSSocket,
} from 'node:tls'
import type { TlsFacts } from '../audit/fact.ts'
import { formatAuthority, isAddress } from '../lib/host.ts'
import type { NetworkRule } from '../profile/plan.ts'
import { isPublicAddress } from './address.ts'
import { tlsFacts } from './certificate-facts.ts'
import { connectThroughProxy, ProxyRefusal } from './corporate-proxy.ts'
import { withDeadline } from './deadline.ts'
import { KnownServers } from './known-servers.ts'
import type { Deadlines, GateOptions } from './options.ts'
import type { Pipe, Wire, WireSocket } from './wire.ts'

/** Where one request goes. Connections are shared only between requests of the same rule, host and port. */
export interface Target {
  readonly rule: NetworkRule
  readonly host: string
  readonly port: number
  readonly tls: boolean
  readonly key: string
  /** What `Host` and `:authority` say. */
  readonly authority: string
}

/** The way of a rule's requests to `host`. */
export const targetOf = (rule: NetworkRule, host: string, port: number, tls: boolean): Target => ({
  rule,
  host,
  port,
  tls,
  key: `${rule.id} ${tls ? 'tls' : 'tcp'} ${host} ${port}`,
  authority: formatAuthority(host, port, tls),
})

/** What an upstream connection turned out to be. */
export interface Dialled {
  readonly address: string
  readonly port: number
  readonly tls: TlsFacts | null
}

/** Why a request could not be delivered; `reason` is a refusal's. */
export class UpstreamError extends Error {
  readonly reason: string

  constructor(reason: string, cause?: unknown) {
    super(reason, { cause })
    this.reason = reason
  }
}

const MOST_SESSIONS = 256

/** Makes upstream connections; the only code here that opens a socket to anywhere. */
export class Dialler {
  readonly #options: Pick<GateOptions, 'upstream' | 'resolve'>
  readonly #deadlines: Deadlines
  readonly #facts = new WeakMap<object, Dialled>()
  readonly #contexts = new Map<string | null, SecureContext>()
  /** TLS sessions for resumption, by target. */
  readonly #sessions = new Map<string, { ticket: Buffer; facts: TlsFacts }>()

  readonly #wire: Wire | null
  readonly #known: KnownServers | null

  constructor(
    options: Pick<GateOptions, 'upstream' | 'resolve'>,
    deadlines: Deadlines,
    wire: Wire | null = null,
  ) {
    this.#options = options
    this.#deadlines = deadlines
    this.#wire = wire
    this.#known = wire && new KnownServers(wire)
  }

  /** Facts of a connection that this dialler made. */
  factsOf(socket: object): Dialled | undefined {
    return this.#facts.get(socket)
  }

  /** Parses roots ahead of the first request, which would otherwise wait for it. */
  warm(rule: NetworkRule): void {
    this.#contextFor(rule.ca)
  }

  /** A connection ready for requests: TCP, and TLS with a verified certificate when the target wants it. */
  async open(target: Target, alpn: readonly string[]): Promise<Socket> {
    const started = performance.now()
    const tcp = await this.dial(target)
    if (!target.tls) return tcp
    const left = Math.max(1, this.#deadlines.connect - (performance.now() - started))
    return await this.#secure(target, tcp, alpn, left)
  }

  /** Whether connections to the target can be native: it has shown a certificate that Node has verified. */
  knows(target: Target): boolean {
    return target.tls && !this.#proxied(target) && this.#known?.get(target.key) !== undefined
  }

  /** A connection for HTTP/1.1, a native one where that is possible. @throws UpstreamError */
  async openHttp1(target: Target): Promise<Pipe> {
    return (await this.openKnown(target)) ?? (await this.open(target, ['http/1.1']))
  }

  /**
   * A native connection. Null where there can be none, or when the server did not do as before: Node tries by itself
   * then, and says what is wrong. @throws UpstreamError
   */
  async openKnown(target: Target): Promise<WireSocket | null> {
    const known = this.knows(target) ? this.#known?.get(target.key) : undefined
    if (!known) return null
    const { addresses, port } = await this.#addresses(target)
    const ms = Math.max(1000, this.#deadlines.connect / addresses.length)
    let late: unknown
    for (const address of addresses) {
      let socket: WireSocket | undefined
      try {
        socket = this.#wire?.connect(address, port, target.host, known.number)
        if (!socket) break
        await withDeadline(secured(socket, 'secure'), ms)
        this.#facts.set(socket, { address, port, tls: known.facts })
        return socket
      } catch (error) {
        if (isTimeout(error)) late = error
        // Another certificate, or no TLS 1.3 any more.
        if (socket?.ending === 'unknown' || socket?.ending === 'tls') break
        socket?.destroy()
      }
    }
    if (late !== undefined) throw new UpstreamError('upstream.timeout', late)
    this.#known?.forget(target.key)
    return null
  }

  /** TCP to a vetted address, or through the corporate proxy. @throws UpstreamError */
  async dial(target: Target): Promise<Socket> {
    const proxy = this.#proxied(target)
    const socket = proxy !== null ? await this.#throughProxy(proxy, target) : await this.#direct(target)
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 60_000)
    socket.on('error', ignored)
    return socket
  }

  /** A pinned address is on this machine or this network; the corporate proxy is not the way there. */
  #proxied(target: Target): string | null {
    return target.rule.connect === null ? this.#options.upstream.proxy : null
  }

  async #addresses(target: Target): Promise<{ addresses: readonly string[]; port: number }> {
    const pin = target.rule.connect
    const addresses = pin ? [pin.address] : await this.#vetted(target.host)
    return { addresses, port: pin?.port ?? target.port }
  }

  async #direct(target: Target): Promise<Socket> {
    const { addresses, port } = await this.#addresses(target)
    let last: unknown
    for (const address of addresses) {
      try {
        // The vetted address itself, never the name again: a second lookup could give another answer (N-19).
        const socket = await tcpTo(address, port, Math.max(1000, this.#deadlines.connect / addresses.length))
        this.#facts.set(socket, { address, port, tls: null })
        return socket
      } catch (error) {
        last = error
      }
    }
    throw new UpstreamError(isTimeout(last) ? 'upstream.timeout' : 'upstream.unreachable', last)
  }

  async #throughProxy(proxy: string, target: Target): Promise<Socket> {
    // The proxy resolves; what can be vetted here is an address that is spelled out.
    if (isAddress(target.host) && !isPublicAddress(target.host))
      throw new UpstreamError('upstream.address-forbidden')
    try {
      const { connect } = this.#deadlines
      const roots = (): SecureContext => this.#contextFor(null)
      const socket = await connectThroughProxy(proxy, target.host, target.port, connect, roots)
      this.#facts.set(socket, { address: `proxy:${new URL(proxy).host}`, port: target.port, tls: null })
      return socket
    } catch (error) {
      throw new UpstreamError(proxyFailure(error), error)
    }
  }

  /** The public addresses of `host`, at least one. The answer comes from a resolver that may be the attacker's. */
  async #vetted(host: string): Promise<readonly string[]> {
    const all = isAddress(host) ? [host] : await this.#resolve(host)
    if (all.length === 0) throw new UpstreamError('upstream.unresolvable')
    const vetted = vetAddresses(all, ownAddresses())
    if (vetted.length === 0) throw new UpstreamError('upstream.address-forbidden')
    return vetted
  }

  async #resolve(host: string): Promise<readonly string[]> {
    const resolve = this.#options.resolve ?? resolveByDns
    try {
      return await withDeadline(resolve(host), this.#deadlines.resolve)
    } catch (error) {
      throw new UpstreamError('upstream.unresolvable', error)
    }
  }

  async #secure(target: Target, tcp: Socket, alpn: readonly string[], ms: number): Promise<TLSSocket> {
    const before = this.#sessions.get(target.key)
    const socket = connectTls({
      socket: tcp,
      servername: isAddress(target.host) ? '' : target.host,
      // Said, not left to the default, which NODE_TLS_REJECT_UNAUTHORIZED in the caller's environment switches off.
      rejectUnauthorized: true,
      // The name that policy decided on, whatever the socket calls itself.
      checkServerIdentity: (_, certificate) => checkServerIdentity(target.host, certificate),
      secureContext: this.#contextFor(target.rule.ca),
      ALPNProtocols: [...alpn],
      ...(before ? { session: before.ticket } : {}),
    })
    socket.on('error', ignored)
    try {
      await withDeadline(secured(socket, 'secureConnect'), ms)
    } catch (error) {
      socket.destroy()
      tcp.destroy()
      this.#sessions.delete(target.key)
      throw isTimeout(error) ? new UpstreamError('upstream.timeout', error) : tlsFailure(error)
    }
    // A resumed session shows no certificate: it is the one that was verified when the session began.
    const facts = socket.isSessionReused() && before ? before.facts : tlsFacts(socket)
    this.#known?.learn(target.key, socket, facts)
    socket.on('session', (ticket) => this.#remember(target.key, ticket, facts))
    const base = this.#facts.get(tcp)
    if (base) this.#facts.set(socket, { ...base, tls: facts })
    return socket
  }

  #remember(key: string, ticket: Buffer, facts: TlsFacts): void {
    this.#sessions.delete(key)
    this.#sessions.set(key, { ticket, facts })
    const oldest = this.#sessions.keys().next().value
    if (this.#sessions.size > MOST_SESSIONS && oldest !== undefined) this.#sessions.delete(oldest)
  }

  /** Parsing some 150 roots takes a while: once for all rules without roots of their own. */
  #contextFor(ca: string | null): SecureContext {
    let context = this.#contexts.get(ca)
    if (!context) {
      const own = ca === null ? [] : [ca]
      const roots = new Set([
        ...getCACertificates('bundled'),
        ...systemRoots(),
        ...this.#options.upstream.roots,
        ...own,
      ])
      context = createSecureContext({ ca: [...roots], minVersion: 'TLSv1.2' })
      this.#contexts.set(ca, context)
    }
    return context
  }
}

/** At most four addresses worth dialling, IPv4 first: the way that exists nearly everywhere. */
export function vetAddresses(all: readonly string[], own: ReadonlySet<string>): readonly string[] {
  return all
    .filter((address) => isPublicAddress(address) && !own.has(address))
    .sort((a, b) => Number(a.includes(':')) - Number(b.includes(':')))
    .slice(0, 4)
}

function tcpTo(address: string, port: number, ms: number): Promise<Socket> {
  const socket = connectTcp({ host: address, port })
  const connected = new Promise<Socket>((resolve, reject) => {
    socket.once('connect', () => resolve(socket))
    socket.once('error', reject)
  })
  return withDeadline(connected, ms).catch((error: unknown) => {
    socket.destroy()
    throw error
  })
}

function secured(socket: EventEmitter, event: string): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once(event, resolve)
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('closed during the handshake')))
  })
}

/** A certificate that fails is told apart from a handshake that breaks. */
function tlsFailure(error: unknown): UpstreamError {
  return new UpstreamError(isCertificate(error) ? 'upstream.certificate' : 'upstream.unreachable', error)
}

const isCertificate = (error: unknown): boolean =>
  /CERT|ALTNAME|SELF_SIGNED|ISSUER|VERIFY|CHAIN|CRL|HOSTNAME/.test((error as { code?: string }).code ?? '')

/** An error is followed by `close`, which whoever uses the socket listens to. */
const ignored = (): undefined => undefined

/** Which of the two let us down: the proxy, or what lies behind it (its 5xx). */
function proxyFailure(error: unknown): string {
  if (isTimeout(error)) return 'upstream.timeout'
  if (isCertificate(error)) return 'upstream.proxy-certificate'
  if (!(error instanceof ProxyRefusal)) return 'upstream.proxy-unreachable'
  // 407 as RFC 9110 has it; tinyproxy says 401 to a wrong password.
  if (error.status === 407 || error.status === 401) return 'upstream.proxy-credentials'
  return error.status >= 500 ? 'upstream.unreachable' : 'upstream.proxy-refused'
}

const isTimeout = (error: unknown): boolean => error instanceof Error && error.name === 'TimeoutError'

/** A and AAAA by the system's name servers. Its own resolver: getaddrinfo would block the thread that syncs the journal. */
async function resolveByDns(name: string): Promise<readonly string[]> {
  const resolver = new Resolver({ timeout: 2000, tries: 2 })
  const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)])
  return answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
}

/** This machine's own public addresses lead back to its own services (N-17). */
function ownAddresses(): ReadonlySet<string> {
  return new Set(
    Object.values(networkInterfaces()).flatMap((list) => list?.map((entry) => entry.address) ?? []),
  )
}

function systemRoots(): readonly string[] {
  try {
    return getCACertificates('system')
  } catch {
    // A machine without a readable store still has the bundled roots.
    return []
  }
}
