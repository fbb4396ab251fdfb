/**
 * Facts: the compact records that enforcement points append to a session's journals. `ambitd` maps each to one
 * OCSF event when it sequences the journals into the log (audit/ocsf.ts). Rust writes the same JSON.
 *
 * Strings such as path, host, argv are attacker-controlled; they are stored as they are (JSON-escaped) and made
 * printable only where a person reads them. Secrets never enter a fact. Sizes are bytes; digests are lower-case hex.
 */
import type { Label } from '../profile/plan.ts'

/** Of a command line: who has more cuts it, or the record could not be read. */
export const MOST_WORDS = 4096

interface Base {
  /** Wall clock, epoch milliseconds, as claimed by this machine. */
  readonly t: number
  /** CLOCK_MONOTONIC, nanoseconds / 1000 (a safe integer). Orders facts of one boot across journals. */
  readonly m: number
}

export type Effect = 'allow' | 'deny' | 'ask'

export interface Control {
  /** e.g. `network-namespace`, `seccomp`, `landlock`, `memory-limit`. */
  readonly control: string
  readonly state: 'fully' | 'partly' | 'not'
  readonly detail: string
}

export interface TlsFacts {
  readonly version: string
  readonly subject: string
  readonly issuer: string
  readonly sha256: string
  readonly notAfter: string
}

export type FactBody =
  | {
      k: 'session.start'
      user: string
      uid: number
      profile: string
      planDigest: string
      sheetDigest: string
      runtime: string
      argv: string[]
      agent: { name: string; version: string | null; digest: string | null }
      cwd: string
    }
  | { k: 'session.enforced'; controls: Control[] }
  /** What a machine starts from, SHA-256 each. `image`: of the signed manifest; `planDigest`: of the profile as compiled. */
  | {
      k: 'machine.image'
      image: string
      kernel: string
      initramfs: string
      root: string
      commandLine: string
      planDigest: string
      /** Of the snapshot that it goes on from; absent when it boots. */
      snapshot?: string | undefined
    }
  /**
   * What went into a machine's TPM before its first instruction; bytes in hex. `ak`: `TPM2B_PUBLIC` of the key that signs
   * its quotes. `eventLog`: in the TCG's form. `device`: `swtpm` is software on this host.
   */
  | { k: 'machine.measured'; device: string; ak: string; eventLog: string }
  /** A quote of that TPM: `TPMS_ATTEST` and `TPMT_SIGNATURE`, hex. `by`: who asked. */
  | { k: 'machine.quote'; nonce: string; quote: string; signature: string; by: string }
  | {
      k: 'session.end'
      outcome: 'ended' | 'failed' | 'killed' | 'refused' | 'timeout'
      exit: number
      reason: string | null
    }
  | { k: 'session.freeze'; by: string }
  | { k: 'session.thaw'; by: string }
  | { k: 'session.stalled'; reason: string }
  | {
      k: 'process.launch'
      pid: number
      ppid: number
      path: string
      digest: string | null
      argv: string[]
      cwd: string
      truncated: boolean
    }
  | { k: 'process.exit'; pid: number; code: number | null }
  | { k: 'process.denied'; pid: number; path: string; reason: string }
  | {
      k: 'file.open'
      path: string
      mode: 'read' | 'write'
      size: number
      sha256: string | null
      label: Label
    }
  | { k: 'file.write'; path: string; size: number; sha256: string | null; label: Label }
  /**
   * Up to `files` files beneath `path` are being written: durable before the first of them is closed. Each also has
   * records of its own, which after a power cut may be missing for the last tenth of a second.
   */
  | { k: 'file.intent'; path: string; files: number; label: Label }
  /** This and the next three are recorded before they happen; see `file.failed`. */
  | { k: 'file.create'; path: string; type: 'file' | 'dir' | 'link' | 'other' }
  | { k: 'file.delete'; path: string }
  | { k: 'file.rename'; path: string; to: string }
  | { k: 'file.attributes'; path: string }
  /** What the latest fact of this kind and path announced did not happen, or only in part. `to`: of a rename. */
  | {
      k: 'file.failed'
      path: string
      to?: string | undefined
      op: 'create' | 'delete' | 'rename' | 'attributes' | 'write'
      reason: string
    }
  | { k: 'file.hash'; path: string; size: number; sha256: string }
  | {
      k: 'file.denied'
      path: string
      op: string
      reason: 'hidden' | 'protected' | 'read-only' | 'outside' | 'hard-link' | 'quota' | 'unsupported'
      rule: string
      /** Equal refusals that this fact stands for, when the view counted them (more than 8 alike); else it is one. */
      count?: number | undefined
    }
  | {
      k: 'dns.query'
      name: string
      type: string
      answer: string | null
      reason: string | null
      rule: string | null
    }
  | {
      k: 'net.open'
      flow: number
      host: string
      address: string
      port: number
      rule: string | null
      tls: TlsFacts | null
    }
  | { k: 'net.close'; flow: number; host: string; bytesOut: number; bytesIn: number; ms: number }
  | {
      k: 'net.denied'
      flow: number
      host: string
      address: string
      port: number
      reason: string
      rule: string | null
    }
  | {
      k: 'http.request'
      flow: number
      request: number
      method: string
      host: string
      port: number
      path: string
      rule: string
      credential: string | null
      label: Label
      bytes: number
    }
  | {
      k: 'http.response'
      flow: number
      request: number
      status: number
      bytesOut: number
      bytesIn: number
      ms: number
      scrubbed: number
    }
  | {
      k: 'http.denied'
      flow: number
      method: string
      host: string
      port: number
      path: string
      reason: string
      rule: string | null
      status: number
    }
  | { k: 'credential.injected'; name: string; host: string; request: number }
  | { k: 'credential.foreign'; host: string; header: string; fingerprint: string }
  | { k: 'decision'; action: string; effect: Effect; reason: string; rule: string | null; target: string }
  | { k: 'review.applied'; path: string; sha256: string | null }
  | { k: 'review.dropped'; path: string }
  | { k: 'gap'; journal: string; reason: string }

export type FactKind = FactBody['k']
export type Fact = FactBody & Base
