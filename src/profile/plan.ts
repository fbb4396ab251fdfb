/**
 * The compiled plan: what a profile means for one session after variables, `extends` and defaults are resolved.
 * It is the only thing the enforcement points see. Plain JSON, so that Rust reads the same bytes.
 */

/** Data classes, lowest first. */
export const LABELS = ['public', 'internal', 'confidential', 'regulated'] as const
export type Label = (typeof LABELS)[number]

/** Strength of isolation, weakest first. A profile names a minimum. */
export const RUNTIMES = ['os-sandbox', 'container', 'microvm'] as const
export type RuntimeName = (typeof RUNTIMES)[number]

/** Where a profile's file was found: the product, the user's configuration, or a path that somebody named. */
export type ProfileOrigin = 'shipped' | 'yours' | 'file'

export interface Plan {
  readonly version: 1
  readonly profile: {
    readonly name: string
    readonly title: string
    /** SHA-256, hex, of the canonical JSON of the resolved profile document. */
    readonly digest: string
    readonly origin: ProfileOrigin
    /** Absolute path of the file. */
    readonly file: string
  }
  readonly isolation: {
    readonly runtime: RuntimeName
    readonly limits: 'required' | 'partly'
    readonly cpus: number
    /** Bytes. */
    readonly memory: number
    readonly processes: number
    /** Milliseconds. */
    readonly wallclock: number
    /** Bytes that the session may add under writable roots, home and /tmp together. */
    readonly disk: number
  }
  /** Longest path first. */
  readonly roots: readonly RootPlan[]
  /** Files to copy into the mirror directory at the start: absolute source, absolute target. See mirror.ts. */
  readonly mirror: readonly { readonly from: string; readonly to: string }[]
  readonly network: readonly NetworkRule[]
  /** Bytes. Path, query, headers, body and frames all count. */
  readonly upload: { readonly perRequest: number; readonly perMinute: number; readonly perSession: number }
  readonly credentials: readonly CredentialPlan[]
  readonly environment: { readonly pass: readonly string[]; readonly set: Readonly<Record<string, string>> }
  readonly desktop: {
    readonly clipboard: 'deny' | 'allow'
    readonly display: 'deny' | 'allow'
    readonly audio: 'deny' | 'allow'
  }
  readonly approvals: readonly string[]
}

export interface RootPlan {
  /** Place in the profile, e.g. `files[0]`. */
  readonly id: string
  /** Absolute, normalised; the same inside and outside. */
  readonly path: string
  readonly access: 'read' | 'write' | 'review'
  readonly via: 'view' | 'mount'
  readonly label: Label
  /** Globs relative to the root, gitignore order: the last match wins, `!` re-admits. See lib/glob.ts. */
  readonly hide: readonly string[]
  /** Globs relative to the root, same language. */
  readonly protect: readonly string[]
  /** Globs whose files are `review` even where `access` is `write` (agent instructions, build scripts). */
  readonly review: readonly string[]
  readonly variable: 'project' | 'workspace' | 'mirror' | null
  /** True when the directory did not exist and Ambit may create it (the workspace). */
  readonly create: boolean
}

export interface NetworkRule {
  /** Place in the profile, e.g. `network[0]`. */
  readonly id: string
  /** Canonical: lower case, no trailing dot, punycode. `*.example.com` matches strict subdomains only. Or an IP literal. */
  readonly host: string
  readonly ports: readonly number[]
  /** Upper case; null = all. */
  readonly methods: readonly string[] | null
  /** Path globs (`*` within a segment, trailing `*` any rest); null = all. */
  readonly paths: readonly string[] | null
  readonly clearance: Label
  /** Name of the credential to inject. */
  readonly credential: string | null
  readonly inspect: boolean
  /** True when the rule admits plain HTTP on its ports. */
  readonly plain: boolean
  /** True when anything passes on its ports, unread: databases without TLS. Only with `connect`. */
  readonly raw: boolean
  /** Pins the address dialled: the only way to a loopback or private one. */
  readonly connect: { readonly address: string; readonly port: number } | null
  /** PEM of extra roots for this rule. */
  readonly ca: string | null
}

export interface CredentialPlan {
  readonly name: string
  readonly kind: 'header'
  /** Lower case header name, e.g. `x-api-key` or `authorization`. */
  readonly header: string
  /** Put before the value, e.g. `Bearer `. */
  readonly prefix: string
  /** `env:NAME` or `file:/path`; read outside, by the gate only. */
  readonly source: string
  /** Variable that holds a placeholder inside. */
  readonly env: string | null
}
