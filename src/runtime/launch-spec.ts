import type { Gvisor } from './gvisor.ts'

/**
 * What `ambit-launch` is told: it executes, it decides nothing. Written as JSON to a 0600 file in the session's run
 * directory; the Rust side (native/launch/src/spec.rs) refuses unknown fields and another version.
 */
export interface LaunchSpec {
  readonly version: 2
  readonly session: string
  /** Absolute paths of the host tools. */
  readonly tools: { readonly bwrap: string }
  /** What stands inside the outer world. */
  readonly cell: LaunchCell
  /** Host uid and gid that the agent's processes have. The caller's own; a dedicated non-zero one when root calls. */
  readonly host: { readonly uid: number; readonly gid: number }
  /** What the agent sees as its own uid and gid. */
  readonly inside: { readonly uid: number; readonly gid: number }
  readonly hostname: string
  /** In order; later ones lie over earlier ones. */
  readonly mounts: readonly LaunchMount[]
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  /** True: stdin and stdout are terminals, the agent gets a pty of its own with filtered sequences. */
  readonly terminal: boolean
  /** Ports of the listening sockets inside the namespace. */
  readonly ports: { readonly tcp: number; readonly dns: number; readonly proxy: number }
  readonly limits: {
    readonly processes: number
    readonly memory: number
    readonly cpus: number
    readonly wallclock: number
    /** Bytes that may be added to writable binds (the home); the view has a quota of its own. */
    readonly disk: number
    readonly openFiles: number
  }
  /** Journal that the exec sensor appends to. */
  readonly journal: string
}

export type LaunchCell =
  /** Namespaces, Landlock and seccomp on the host's kernel. */
  | { readonly kind: 'bubblewrap' }
  /** The same namespaces around gVisor. `platform` null: what this `runsc` takes by itself. */
  | ({ readonly kind: 'gvisor'; readonly platform: string | null } & Gvisor)
  /**
   * The same around QEMU. `programs`: path in the root image → SHA-256; `memory`: bytes that the guest has. `snapshot`:
   * a file to write a machine that has booted to, and nothing else; or one that was verified, to go on from.
   */
  | {
      readonly kind: 'vm'
      readonly qemu: string
      readonly accelerator: 'kvm' | 'tcg'
      readonly kernel: string
      readonly initramfs: string
      readonly root: string
      readonly commandLine: string
      readonly memory: number
      readonly processors: number
      readonly snapshot:
        | { readonly use: 'take'; readonly path: string }
        | { readonly use: 'resume'; readonly path: string; readonly verified: VerifiedFile }
        | null
      readonly programs: Readonly<Record<string, string>>
      readonly measured: MeasuredStart
    }

/** What goes into a machine's TPM. SHA-256, hex: `image` of the signed manifest, `profile` of the plan. */
export interface MeasuredStart {
  readonly swtpm: string
  readonly image: string
  readonly profile: string
  readonly kernel: VerifiedFile
  readonly initramfs: VerifiedFile
  readonly root: VerifiedFile
}

/** A file that was read and found to be what was signed. */
export interface VerifiedFile {
  readonly sha256: string
  /** `device:inode:size:mtime` in nanoseconds: by it the launcher knows the file again. */
  readonly identity: string
}

export type LaunchMount =
  /** Root `root` of the view, at `target`. */
  | { readonly kind: 'view'; readonly root: number; readonly target: string }
  | { readonly kind: 'bind'; readonly source: string; readonly target: string; readonly write: boolean }
  /** A read-only directory as it is on the host; what listens on a socket under it cannot be reached. */
  | { readonly kind: 'plain'; readonly source: string; readonly target: string }
  /** `size` in bytes. */
  | { readonly kind: 'tmpfs'; readonly target: string; readonly size: number; readonly mode: number }
  | { readonly kind: 'dir'; readonly target: string; readonly mode: number }
  | { readonly kind: 'symlink'; readonly target: string; readonly link: string }
  /** A small generated read-only file (`/etc/passwd`, the CA bundle). */
  | { readonly kind: 'file'; readonly target: string; readonly content: string; readonly mode: number }
