/** The one interface behind which every runtime stands; `runtimes.ts` lists them. Nothing of Linux in it but fds. */
import type { Control, FactBody } from '../audit/fact.ts'
import type { Quoted } from './attestation/document.ts'
import type { Paths } from '../lib/paths.ts'
import type { Plan } from '../profile/plan.ts'
import type { Agent } from './closure.ts'
import type { Probe } from './doctor/probe.ts'
import type { StartLauncher } from './launcher.ts'
import type { LaunchCell, LaunchSpec } from './launch-spec.ts'
import type { Ids } from './owner.ts'
import type { HostSystem } from './system-files.ts'

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

/** What of this machine a session is made from. */
export interface Found {
  readonly agent: Agent
  readonly host: HostSystem
  /** Whose home the agent's is: a name for it, and its owner on the host. */
  readonly home: { readonly agent: string; readonly owner: Ids }
  /** Further files of the session's /etc, path → content. */
  readonly etc: Readonly<Record<string, string>>
}

/** A directory or file of the host, no root of the plan, that the view serves. */
export interface ShownPlace {
  readonly index: number
  readonly source: string
  readonly target: string
  readonly write: boolean
}

/** A spec as a runtime can follow it, and what the session has to do for it. */
export interface Adapted {
  readonly spec: LaunchSpec
  /** Further roots of the view. */
  readonly shown: readonly ShownPlace[]
  /** Who owns the caller's files in the view. */
  readonly owner: Ids
  /** `mounted`: it may be filled while the cell is built. `copied`: it must be full before. */
  readonly etc: 'mounted' | 'copied'
}

/** What a session will stand on. */
export interface Ground {
  readonly cell: LaunchCell
  /** What of all that was found the session gets, and in which form. */
  show(found: Found): Found
  /** `first`: the index of the view's next root. */
  adapt(spec: LaunchSpec, first: number): Adapted
  /** Makes the namespaces and sockets. Throws AmbitError ERR_RUNTIME_MISSING or ERR_RUNTIME_FAILED. */
  open(specPath: string, start: StartLauncher): Promise<World>
}

export interface Runtime {
  /** What it is, for a person who reads the grant sheet. */
  readonly words: string
  /** Controls without which there is no session, beside those that every runtime has to enforce. */
  readonly required: readonly string[]
  /** Controls that may hold only in part without weakening what a session promises. */
  readonly covered: readonly string[]
  /** Names of the probes that its sessions cannot do without, beside those that all need. */
  readonly needs: readonly string[]
  /** Tries, for `ambit doctor`, what no other runtime uses. */
  probe(paths: Paths): Promise<Probe[]>
  /** Its sessions are measured at their start, and their world can quote that. */
  readonly measured: boolean
  /** Seconds that a small task of an agent may take in it, on a slow machine. */
  readonly patience: number
  /** Finds what a session is to stand on. Throws AmbitError ERR_RUNTIME_MISSING or ERR_RUNTIME_FAILED. */
  find(around: Around): Ground | Promise<Ground>
}
