import type { FactBody } from '../audit/fact.ts'
import type { Native } from '../lib/native.ts'
import type { SessionState } from '../policy/decision.ts'
import type { Plan } from '../profile/plan.ts'
import type { RuntimePolicy } from './judge.ts'

export interface GateOptions {
  readonly plan: Plan
  /** Values by credential name. They live here and in requests to their own hosts, nowhere else. */
  readonly secrets: ReadonlyMap<string, string>
  /** What stands inside the session for each credential. */
  readonly placeholders: ReadonlyMap<string, string>
  /** Records a fact, at the latest with the next barrier. A throw stops the gate: nothing goes out unrecorded. */
  record(fact: FactBody): void
  /** Resolves when all earlier facts of the session are durable. Awaited before the first byte of a request. */
  barrier(): Promise<void>
  state(): SessionState
  /** Whether `state` would say that it is stopped, where that can be told at less cost. */
  readonly stopped?: () => boolean
  /** Judges what the plan allows by facts of the session (policy/runtime.ts). Absent: the plan's decision stands. */
  readonly policy?: RuntimePolicy
  readonly upstream: {
    /** `http://[user:password@]host:port` of a corporate proxy. */
    readonly proxy: string | null
    /** PEM of further trusted roots. */
    readonly roots: readonly string[]
  }
  /** Where an accepted connection wanted to go before the redirect. Default: the native addon. */
  readonly originalDestination?: (fd: number) => { address: string; port: number }
  /** Every address of a name. Default: node:dns. */
  readonly resolve?: (name: string) => Promise<readonly string[]>
  /** Issues the session CA and its leaves. Default: the native addon. */
  readonly issuer?: Pick<Native, 'createCa' | 'createLeaf'>
  /** False: Node's own TLS has every connection. Default: the usual ones are native. */
  readonly wire?: boolean
  readonly onDenied?: (summary: DeniedSummary) => void
  readonly deadlines?: Partial<Deadlines>
}

export interface DeniedSummary {
  readonly host: string
  readonly port: number
  readonly reason: string
  readonly rule: string | null
}

/** Milliseconds. */
export interface Deadlines {
  /** First bytes, TLS handshake and request head of the client. */
  readonly head: number
  /** Durability of a record. */
  readonly barrier: number
  readonly resolve: number
  /** TCP, upstream proxy and TLS together. */
  readonly connect: number
  /** From the end of the request to the response head: models think for minutes. */
  readonly response: number
  /** No byte in either direction. */
  readonly idle: number
  /** The same for event streams, WebSockets and opaque tunnels. */
  readonly streamIdle: number
  /** One exchange from its first to its last byte. */
  readonly total: number
}

export const DEADLINES: Deadlines = {
  head: 10_000,
  barrier: 5_000,
  resolve: 5_000,
  connect: 10_000,
  response: 600_000,
  idle: 300_000,
  streamIdle: 3_600_000,
  total: 86_400_000,
}

/** A listening fd, or (tests, other runtimes) an address to listen on. */
export type ListenOn = number | { readonly host: string; readonly port: number }

export interface GateListeners {
  readonly tcp: ListenOn
  readonly dns: ListenOn
  readonly dnsTcp: ListenOn
  readonly proxy: ListenOn
}

/** Ports that the listeners have. */
export type BoundPorts = Readonly<Record<keyof GateListeners, number>>

export interface HostTotals {
  requests: number
  denied: number
  bytesOut: number
  bytesIn: number
}

export interface Totals {
  readonly flows: number
  readonly requests: number
  readonly denied: number
  readonly bytesOut: number
  readonly bytesIn: number
  /** Attacker-chosen keys; bounded, the rest is summed under `(other)`. */
  readonly byHost: ReadonlyMap<string, Readonly<HostTotals>>
}

export interface Gate {
  /** Certificate of the session's CA; the key never leaves this process's memory. */
  readonly caPem: string
  /** Takes over the session's listening sockets. */
  listen(on: GateListeners): Promise<BoundPorts>
  /** Nothing more goes out; what is under way is held. */
  pause(reason: string): void
  resume(): void
  totals(): Totals
  /** Stops accepting, waits up to `drainMs` for exchanges to end, then cuts them. */
  close(drainMs: number): Promise<void>
}
