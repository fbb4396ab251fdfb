/** What enforcement points ask and what they are answered. The plan answers first, Rego what it leaves open. */
import type { Label } from '../profile/plan.ts'

/** One thing the agent tries. Hosts, methods and paths are attacker-controlled, already parsed to canonical form. */
export type Action =
  | { readonly kind: 'dns.query'; readonly name: string; readonly type: string }
  | { readonly kind: 'net.connect'; readonly host: string; readonly port: number; readonly tls: boolean }
  | {
      readonly kind: 'http.request'
      readonly host: string
      readonly port: number
      readonly tls: boolean
      readonly method: string
      /** As spelled on the wire, query included. */
      readonly path: string
    }

/** What of a session changes while it runs and bears on decisions. */
export interface SessionState {
  /** Highest label read so far. */
  readonly label: Label
  /** True while nothing may go out: frozen, daemon lost, journal dead. The reason is shown to the agent. */
  readonly stopped: string | null
}

/** Executed by the enforcement point, together with an allow. A credential is a name here, never a value. */
export type Obligation =
  | { readonly kind: 'inject'; readonly credential: string }
  | { readonly kind: 'count-upload'; readonly perRequest: number }
  | { readonly kind: 'inspect' }

export interface Decision {
  readonly effect: 'allow' | 'deny' | 'ask'
  /** Stable reason code, e.g. `network.no-matching-rule`. */
  readonly reason: string
  /** Place in the profile, e.g. `network[0]`, when a rule decided. */
  readonly rule: string | null
  readonly obligations: readonly Obligation[]
}

export const deny = (reason: string, rule: string | null = null): Decision => ({
  effect: 'deny',
  reason,
  rule,
  obligations: [],
})
