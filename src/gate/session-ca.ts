/** The session's own certificate authority. Its key exists in this process's memory only and dies with the session. */
import { createSecureContext, type SecureContext } from 'node:tls'
import type { Native } from '../lib/native.ts'

/** Contexts kept: 10,000 host names must not become 10,000 keys in memory (CASES.md Q-11). */
const MOST_LEAVES = 256
const HOUR = 3600

/** Issues what the gate presents to the session's clients. */
export class SessionCa {
  readonly #issuer: Pick<Native, 'createCa' | 'createLeaf'>
  readonly #ca: { cert: string; key: string }
  readonly #notBefore: number
  readonly #notAfter: number
  /** Least recently used first. */
  readonly #leaves = new Map<string, SecureContext>()

  /** `lifetime` in milliseconds: the session's wall clock. */
  constructor(issuer: Pick<Native, 'createCa' | 'createLeaf'>, lifetime: number) {
    const now = Math.floor(Date.now() / 1000)
    this.#issuer = issuer
    // A client with a slow clock must not find the certificate from the future.
    this.#notBefore = now - HOUR
    this.#notAfter = now + Math.ceil(lifetime / 1000) + 24 * HOUR
    this.#ca = issuer.createCa('Ambit session CA', this.#notBefore, this.#notAfter)
  }

  get pem(): string {
    return this.#ca.cert
  }

  /** What the gate presents as `host`. */
  contextFor(host: string): SecureContext {
    const known = this.#leaves.get(host)
    if (known) {
      this.#leaves.delete(host)
      this.#leaves.set(host, known)
      return known
    }
    const leaf = this.#issuer.createLeaf(this.#ca, host, this.#notBefore, this.#notAfter)
    // `ca: []`: what is presented verifies nobody, so Node need not parse its own roots for it.
    const context = createSecureContext({ cert: leaf.cert, key: leaf.key, ca: [], minVersion: 'TLSv1.2' })
    this.#leaves.set(host, context)
    const oldest = this.#leaves.keys().next().value
    if (this.#leaves.size > MOST_LEAVES && oldest !== undefined) this.#leaves.delete(oldest)
    return context
  }
}
