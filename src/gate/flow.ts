/** One connection that a client in the session opened, from its first byte to its record. */
import type { EventEmitter } from 'node:events'
import type { Host } from '../lib/host.ts'
import type { NetworkRule } from '../profile/plan.ts'
import type { GateContext } from './context.ts'
import { type Refusal, refusal } from './refuse.ts'
import { type Dialled, type Target, targetOf } from './upstream.ts'

/** Bytes that a refused client may still send before we hang up on it; it must get to read its answer (N-40). */
const LINGER_BYTES = 64 << 20
const LINGER_MS = 5_000

export interface FlowTarget {
  /** What the connection is for: the name bound to the synthetic address, or an IP literal. */
  readonly host: Host
  readonly port: number
  /** The address that the client dialled; empty for the explicit proxy. */
  readonly address: string
}

/** A client's connection as policy and records see it. */
export class Flow implements FlowTarget {
  readonly id: number
  readonly host: Host
  readonly port: number
  readonly address: string
  readonly started = performance.now()
  tls = false
  /** Set when every request of this connection is answered with the same refusal. */
  refusal: Refusal | null = null
  bytesOut = 0
  bytesIn = 0
  readonly #gate: GateContext
  /** What this flow has used last. */
  #upstream: Dialled | undefined
  /** All that is on record for it; most flows use one. */
  #recorded: WeakSet<Dialled> | undefined
  #target: Target | undefined
  #ended = false

  constructor(gate: GateContext, target: FlowTarget) {
    this.#gate = gate
    this.id = gate.monitor.flow()
    this.host = target.host
    this.port = target.port
    this.address = target.address
  }

  /** Where a request under `rule` goes. Made once while the rule stays the same. */
  targetUnder(rule: NetworkRule): Target {
    if (this.#target?.rule !== rule) this.#target = targetOf(rule, this.host, this.port, this.tls)
    return this.#target
  }

  /** Records the upstream connection that this flow's requests use, once for each. */
  opened(dialled: Dialled | undefined, rule: string): void {
    if (!dialled || dialled === this.#upstream) return
    // Kept connections are shared: flows that are served in turns get each other's again and again.
    if (this.#upstream) this.#recorded ??= new WeakSet([this.#upstream])
    this.#upstream = dialled
    if (this.#recorded?.has(dialled)) return
    this.#recorded?.add(dialled)
    const { address, port, tls } = dialled
    this.#gate.monitor.record({ k: 'net.open', flow: this.id, host: this.host, address, port, rule, tls })
  }

  /** Counts what moved; the totals of the session follow. */
  moved(bytesOut: number, bytesIn: number): void {
    this.bytesOut += bytesOut
    this.bytesIn += bytesIn
    this.#gate.monitor.traffic(this.host, bytesOut, bytesIn)
  }

  /** Records that the connection itself was refused. */
  denied(reason: string, rule: string | null = null): void {
    const { id: flow, host, address, port } = this
    this.#gate.monitor.denied(host, port, reason, rule)
    this.#gate.monitor.note({ k: 'net.denied', flow, host, address, port, reason, rule })
  }

  /** Refuses every request to come, after recording why. */
  refuseAll(reason: string, rule: string | null = null): void {
    this.denied(reason, rule)
    this.refusal = refusal(reason, rule)
  }

  /** Once a server's connection is on record, its end is, too; a client may be gone before that. */
  end(): void {
    if (this.#ended || !this.#upstream) return
    this.#ended = true
    const { id: flow, host, bytesOut, bytesIn } = this
    const ms = Math.round(performance.now() - this.started)
    this.#gate.monitor.note({ k: 'net.close', flow, host, bytesOut, bytesIn, ms })
  }
}

const FLOW = Symbol('flow')
type Carrier = object & { [FLOW]?: Flow }

/**
 * The flow behind a socket or an HTTP/2 session. A property, not a map: a session shows its socket through a proxy
 * object, which passes properties on but is not the socket.
 */
export const flowOf = (carrier: object): Flow | undefined => (carrier as Carrier)[FLOW]

/** Marks what carries a flow's requests. */
export function carry(flow: Flow, carrier: object): void {
  ;(carrier as Carrier)[FLOW] = flow
}

type Lingering = EventEmitter & {
  destroySoon?: () => void
  readonly bytesRead?: number
  end(): unknown
  destroy(): unknown
  resume(): unknown
}

/**
 * Makes a server-side socket close gently: our end first, then wait for the peer's. Closing with unread bytes in the
 * kernel sends a reset, and the reset would overtake the refusal that the client should read.
 */
export function lingerOnClose(socket: Lingering): void {
  socket.destroySoon = () => {
    socket.end()
    const limit = (socket.bytesRead ?? 0) + LINGER_BYTES
    const timer = setInterval(() => {
      if ((socket.bytesRead ?? 0) > limit || performance.now() > end) socket.destroy()
    }, 250)
    const end = performance.now() + LINGER_MS
    socket.once('close', () => clearInterval(timer))
    socket.once('end', () => socket.destroy())
    socket.resume()
  }
}
