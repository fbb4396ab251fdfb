/**
 * Servers whose certificate Node has verified in this session. A further connection to the same target may be native:
 * it is believed when it shows the very same certificate and proves to hold its key; nothing is verified anew, as with
 * a session that is resumed. Whatever else it shows is for Node to judge.
 */
import type { TLSSocket } from 'node:tls'
import type { TlsFacts } from '../audit/fact.ts'
import type { Wire } from './wire.ts'

const MOST_SERVERS = 256

/** A target with its one verified certificate. */
export interface KnownServer {
  /** Its number in the wire. */
  readonly number: number
  readonly facts: TlsFacts
  /** Epoch milliseconds: the certificate is good until then. */
  readonly until: number
}

/** By the key of a target. */
export class KnownServers {
  readonly #wire: Wire
  readonly #servers = new Map<string, KnownServer & { readonly sha256: string }>()

  constructor(wire: Wire) {
    this.#wire = wire
  }

  get(key: string): KnownServer | undefined {
    const known = this.#servers.get(key)
    if (!known || Date.now() < known.until) return known
    this.forget(key)
    return undefined
  }

  /** `socket` has just been verified for the target `key`. */
  learn(key: string, socket: TLSSocket, facts: TlsFacts): void {
    const until = Date.parse(facts.notAfter)
    if (socket.isSessionReused() || socket.getProtocol() !== 'TLSv1.3' || !(Date.now() < until)) return
    if (this.#servers.get(key)?.sha256 === facts.sha256) return
    const leaf = socket.getPeerX509Certificate()?.raw
    if (!leaf) return
    this.forget(key)
    this.#servers.set(key, { number: this.#wire.target(leaf), facts, until, sha256: facts.sha256 })
    const oldest = this.#servers.keys().next().value
    if (this.#servers.size > MOST_SERVERS && oldest !== undefined) this.forget(oldest)
  }

  forget(key: string): void {
    const known = this.#servers.get(key)
    this.#servers.delete(key)
    if (known) this.#wire.forgetTarget(known.number)
  }
}
