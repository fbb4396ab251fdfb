/** The one interface behind which os-sandbox, container and microvm stand. Nothing of Linux in it but fds. */
import type { Control, FactBody } from '../audit/fact.ts'
import type { Quoted } from './attestation/document.ts'
import type { Paths } from '../lib/paths.ts'
import type { Plan, RuntimeName } from '../profile/plan.ts'
import type { StartLauncher } from './launcher.ts'
import type { LaunchCell, LaunchSpec } from './launch-spec.ts'

export type Exit =
  | { readonly kind: 'code'; readonly code: number }
  | { readonly kind: 'signal'; readonly signal: number }
  | { readonly kind: 'timeout' }
  | { readonly kind: 'over-limit'; readonly limit: string }
  /** The runtime itself broke: Ambit's failure, not the agent's. */
  | { readonly kind: 'failed'; readonly what: string; readonly why: string; readonly remedy: string | null }

/** Listening sockets inside the session's network, held by the gate. */
export interface GateSockets {
  readonly tcp: number
  readonly dns: number
  readonly dnsTcp: number
  readonly proxy: number
}

/** A session's world, in the order of its life. */
export interface World {
  readonly sockets: GateSockets
  /** What the view is served on: `/dev/fuse` of its mount, or its end of a machine's stream; the caller owns it. */
  readonly fuse: number
  /** Makes the cell (the view must serve by now). Resolves with what is enforced; the command waits. */
  build(): Promise<readonly Control[]>
  /** Starts the command. */
  exec(): Promise<void>
  /** Settles once, whatever ends the world, when nothing inside lives any more. Never rejects. */
  readonly exited: Promise<Exit>
  /** Settles when the world itself is gone, too. Never rejects. */
  readonly gone: Promise<unknown>
  freeze(): void
  thaw(): void
  signal(signal: number): void
  /** Of the machine's TPM, over `nonce` (hex); `by` goes on record. Only where there is one. Throws ERR_RUNTIME_FAILED. */
  quote(nonce: string, by: string): Promise<Quoted>
  /** Kills everything inside; `exited` follows. */
  kill(): void
}

/** What a runtime may look at, and its word for the record. */
export interface Around {
  readonly paths: Paths
  readonly plan: Plan
  /** The host's uid that the session runs under. */
  readonly hostUid: number
  /** Goes to the session's journal, before anything starts. */
  readonly note: (fact: FactBody) => void
}

export interface Runtime {
  readonly name: RuntimeName
  /** Finds what the cell is made of. Throws AmbitError ERR_RUNTIME_MISSING or ERR_RUNTIME_FAILED. */
  cell(around: Around): LaunchCell | Promise<LaunchCell>
  /** Makes the namespaces and sockets. Throws AmbitError ERR_RUNTIME_MISSING or ERR_RUNTIME_FAILED. */
  open(spec: LaunchSpec, specPath: string, start: StartLauncher): Promise<World>
}
