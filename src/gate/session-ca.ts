/** The session's own certificate authority. Its key exists in this process's memory only and dies with the session. */
import { createSecureContext, type SecureContext } from 'node:tls'
import type { Native } from '../lib/native.ts'
import type { Wire } from './wire.ts'

/** Contexts kept: 10,000 host names must not become 10,000 keys in memory. */
const MOST_LEAVES = 256
const HOUR = 3600

/** A certificate with its key, and what they were made into. */
interface Leaf {
  readonly cert: string
  readonly key: string
  context: SecureContext | null
  /** Its number in the wire. */
  number: number | null
}

/** Issues what the gate presents to the session's clients. */
export class SessionCa {
  readonly #issuer: Pick<Native, 'createCa' | 'createLeaf'>
  readonly #ca: { cert: string; key: string }
  readonly #notBefore: number
  readonly #notAfter: number
  /** Least recently used first. */
  readonly #leaves = new Map<string, Leaf>()

  /** Where certificates have numbers. */
  #wire: Wire | null = null

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
    const leaf = this.#leafFor(host)
    // `ca: []`: what is presented verifies nobody, so Node need not parse its own roots for it.
    leaf.context ??= createSecureContext({ cert: leaf.cert, key: leaf.key, ca: [], minVersion: 'TLSv1.2' })
    return leaf.context
  }

  /** The same, as the wire knows it. */
  numberFor(host: string, wire: Wire): number {
    const leaf = this.#leafFor(host)
    this.#wire = wire
    leaf.number ??= wire.certificate(leaf.cert, leaf.key)
    return leaf.number
  }

  #leafFor(host: string): Leaf {
    const known = this.#leaves.get(host)
    if (known) {
      this.#leaves.delete(host)
      this.#leaves.set(host, known)
      return known
    }
    const made = this.#issuer.createLeaf(this.#ca, host, this.#notBefore, this.#notAfter)
    const leaf: Leaf = { ...made, context: null, number: null }
    this.#leaves.set(host, leaf)
    const [oldest] = this.#leaves
    if (this.#leaves.size > MOST_LEAVES && oldest) this.#forget(...oldest)
    return leaf
  }

  #forget(host: string, { number }: Leaf): void {
    this.#leaves.delete(host)
    if (number !== null) this.#wire?.forgetCertificate(number)
  }
}
