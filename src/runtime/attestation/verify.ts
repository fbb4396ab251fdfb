/**
 * Does an attestation show a session's machine to have started from an image? What it proves: the TPM that the session's
 * record names holds what that record says was put into it. The TPM is software on the same host: whoever rules the
 * host could have written log, TPM and quote alike.
 */
import { createHash } from 'node:crypto'
import { printable } from '../../lib/printable.ts'
import type { Manifest } from '../microvm-image/manifest.ts'
import type { Attestation } from './document.ts'
import { type Measured, parseEventLog, replay } from './event-log.ts'
import { isSigned, parseAttestationKey, parseQuote } from './quote.ts'

/** What the verifier knows from elsewhere. */
export interface Expectation {
  readonly session: string
  readonly nonce: string
  /** Of the session's record in a log that was verified: `machine.measured`. */
  readonly record: { readonly ak: string; readonly eventLog: string }
  /** Of a manifest whose signature was verified, and SHA-256 of its bytes. */
  readonly manifest: Manifest
  readonly image: string
  /** SHA-256 of the snapshots that were signed for this image. */
  readonly snapshots: readonly string[]
  /** SHA-256 of the profile, as compiled. */
  readonly profile: string
}

export interface Shown {
  /** The key's name, as a TPM has it. */
  readonly ak: string
  /** SHA-256 bank: number → value, hex. */
  readonly registers: Readonly<Record<number, string>>
  readonly image: string
  readonly profile: string
  readonly commandLine: string
  /** That it went on from; null when it booted. */
  readonly snapshot: string | null
}

export type Verdict =
  | { readonly ok: true; readonly shown: Shown }
  | { readonly ok: false; readonly why: string }

const COMMAND_LINE = 'kernel_cmdline: '
/** What `ambit-launch` adds to the line of an image (native/launch/src/vm/machine.rs). */
const ADDED = /^( (tsc_early_khz=\d{1,9}|mitigations=off|tpm_tis\.force=1|tpm_tis\.interrupts=0))+$/
const refuse = (why: string): Verdict => ({ ok: false, why })

/** Checks every claim of `attestation`; all of it is the sender's. */
export function verifyAttestation(attestation: Attestation, expected: Expectation): Verdict {
  const [ak, quoteBytes, signature, log] = (['ak', 'quote', 'signature', 'eventLog'] as const).map((name) =>
    Buffer.from(attestation[name], 'hex'),
  ) as [Buffer, Buffer, Buffer, Buffer]
  if (attestation.session !== expected.session) return refuse('it is of another session')
  if (attestation.ak !== expected.record.ak)
    return refuse('its key is not the one that the log has for this session')
  if (attestation.eventLog !== expected.record.eventLog)
    return refuse('its event log is not the one that the log has for this session')
  const key = parseAttestationKey(ak)
  if (!key) return refuse('its key is not one that signs only what its TPM made')
  if (!isSigned(quoteBytes, signature, key.key)) return refuse('the quote is not signed by its key')
  const quote = parseQuote(quoteBytes)
  if (!quote) return refuse('what is signed is no quote')
  if (quote.nonce !== expected.nonce) return refuse('the quote is over another nonce: it may be an old one')
  const events = parseEventLog(log)
  if (!events) return refuse('its event log is none of a machine of Ambit')
  const values = replay(events)
  const registers = [...values.keys()].sort((a, b) => a - b)
  if (quote.registers.join() !== registers.join())
    return refuse(
      `the quote is of registers ${quote.registers.join(', ')}, the event log of ${registers.join(', ')}`,
    )
  const digest = createHash('sha256')
  for (const register of registers) digest.update(values.get(register) ?? '')
  if (!digest.digest().equals(quote.digest))
    return refuse(
      'the TPM holds something else than the event log: somebody in the guest has extended a register, or the log is not its',
    )
  const why = differs(events, expected)
  if (why !== null) return refuse(why)
  const [line] = events
  return {
    ok: true,
    shown: {
      ak: key.name,
      registers: Object.fromEntries(
        registers.map((register) => [register, values.get(register)?.toString('hex') ?? '']),
      ),
      image: expected.image,
      profile: expected.profile,
      commandLine: line?.text.slice(COMMAND_LINE.length) ?? '',
      snapshot: resumedFrom(events)?.digest ?? null,
    },
  }
}

/** Why the events are not those of this image, profile and session, in their order; null when they are. */
function differs(events: readonly Measured[], expected: Expectation): string | null {
  const { session, manifest, image, profile, snapshots } = expected
  const line = events[0]?.text.slice(COMMAND_LINE.length) ?? ''
  if (!line.startsWith(manifest.commandLine) || !ADDED.test(line.slice(manifest.commandLine.length)))
    return `the kernel's command line is not the image's: ${printable(line, 200)}`
  const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
  const resumed = resumedFrom(events)
  if (resumed && !snapshots.includes(resumed.digest))
    return 'the machine went on from a snapshot that nobody signed for this image; --snapshot names the one that was'
  const snapshot = resumed ? [{ ...resumed, name: 'snapshot' }] : []
  const wanted: readonly (Measured & { readonly name: string })[] = [
    { name: 'command line', register: 8, text: COMMAND_LINE + line, digest: sha256(line) },
    { name: 'kernel', register: 9, text: 'kernel', digest: manifest.kernel.sha256 },
    { name: 'initramfs', register: 9, text: 'initramfs', digest: manifest.initramfs.sha256 },
    { name: 'root image', register: 9, text: 'root', digest: manifest.root.sha256 },
    ...snapshot,
    { name: 'manifest', register: 12, text: 'ambit image manifest', digest: image },
    { name: 'profile', register: 12, text: 'ambit profile', digest: profile },
    { name: 'session', register: 15, text: `ambit session: ${session}`, digest: sha256(session) },
  ]
  for (const [index, want] of wanted.entries()) {
    const { register, text, digest } = events[index] ?? { register: -1, text: '', digest: '' }
    if (register !== want.register || text !== want.text || digest !== want.digest)
      return `the machine did not start from this ${want.name}`
  }
  return events.length === wanted.length ? null : 'its event log has more than a start'
}

const resumedFrom = (events: readonly Measured[]): Measured | undefined =>
  events.find(({ register, text }) => register === 9 && text === 'snapshot')

/** The nonce of a session's last quote, which `ambit-launch` takes without being asked. */
export const lastNonce = (session: string): string =>
  createHash('sha256').update(`end of ${session}`).digest('hex')
