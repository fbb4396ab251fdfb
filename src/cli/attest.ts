import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { connectDaemon } from '../daemon/client.ts'
import { AmbitError } from '../lib/errors.ts'
import { printable, printableJson } from '../lib/printable.ts'
import { readSmallFile } from '../lib/small-file.ts'
import {
  type Attestation,
  formatAttestation,
  parseAttestation,
  quotedSchema,
} from '../runtime/attestation/document.ts'
import { expectationOf, lastQuoteOf } from '../runtime/attestation/expect.ts'
import { lastNonce, type Verdict, verifyAttestation } from '../runtime/attestation/verify.ts'
import type { SessionId } from '../session/id.ts'
import { type Arguments, type Command, type Context, flag, text, usageError } from './command.ts'
import { sessionIdOf } from './order.ts'

const MAX_FILE = 1 << 20

export const command: Command = {
  name: 'attest',
  usage: 'attest ID (--nonce HEX | --last) [--out FILE] | attest verify FILE (--nonce HEX | --last)',
  summary: 'show what a microvm session started from',
  details: `
attest ID           a quote of the machine's TPM over your nonce, with the event log and the key that signed it, as JSON.
                    The nonce is yours: 16 to 64 random bytes, used once (openssl rand -hex 32).
                    --last takes the quote that was made when the session ended, from the log.
attest verify FILE  checks it: the log by its key; key and event log of the quote by the log; the signature; the nonce;
                    the registers by the event log; kernel, initramfs, root, command line and manifest by the signed
                    manifest; the profile; the session. What does not fit is said in one line.

What it proves: the TPM that was made for this session, whose key was on record before the guest's first instruction,
holds exactly this image, command line, profile and session. It binds the log to an image. The TPM is software (swtpm)
on the same host: it is not hardware attestation, and proves nothing against whoever rules that host.

An auditor with copies verifies elsewhere: --log DIR --key VKEY --manifest FILE --image-key FILE, and
--snapshot FILE where the machine went on from one. tpm2_checkquote and
tpm2_eventlog read the same bytes: docs/operations.md, "Attestation".

exit status: 0 it holds, 1 it does not, 2 usage, 125 there is nothing to hold it against.

examples:
  nonce=$(openssl rand -hex 32)
  ambit attest ID --nonce "$nonce" --out quote.json && ambit attest verify quote.json --nonce "$nonce"
`,
  options: {
    nonce: { type: 'string', value: 'HEX', help: 'what the quote must be over' },
    last: { type: 'boolean', help: 'the quote of the end of a session' },
    out: { type: 'string', value: 'FILE', help: 'write there instead of to standard output' },
    log: { type: 'string', value: 'DIR', help: 'verify: a copy of the log (default: your own)' },
    key: { type: 'string', value: 'VKEY', help: "verify: the log's C2SP verifier key (default: your own)" },
    manifest: { type: 'string', value: 'FILE', help: "verify: the image's, signature beside it" },
    snapshot: {
      type: 'string',
      value: 'FILE',
      help: 'verify: snapshot.json that it went on from (default: your own)',
    },
    'image-key': { type: 'string', value: 'FILE', help: 'verify: minisign public key (default: your own)' },
    profile: { type: 'string', value: 'SHA256', help: 'verify: the profile (default: that of its record)' },
    json: { type: 'boolean', help: 'verify: the verdict as JSON' },
  },
  run: async (args, context) => {
    const [verb, file, ...more] = args.words
    if (verb !== 'verify') return attest(sessionIdOf(command, args.words), args, context)
    if (file === undefined || more.length > 0) throw usageError(command, 'name one file')
    return verify(file, args, context)
  },
}

async function attest(session: SessionId, args: Arguments, context: Context): Promise<number> {
  const attestation = flag(args, 'last')
    ? await lastQuote(session, context)
    : await freshQuote(session, nonceOf(args, session), context)
  const out = text(args, 'out')
  if (out === undefined) context.out(formatAttestation(attestation))
  else writeFileSync(resolve(context.cwd, out), formatAttestation(attestation))
  return 0
}

async function freshQuote(session: SessionId, nonce: string, context: Context): Promise<Attestation> {
  const daemon = await connectDaemon(context.paths)
  try {
    const quoted = quotedSchema.parse(await daemon.call('attest', { id: session, nonce }))
    await daemon.call('log.sync', {})
    return { v: 1, session, ...quoted }
  } finally {
    daemon.close()
  }
}

async function lastQuote(session: SessionId, context: Context): Promise<Attestation> {
  const daemon = await connectDaemon(context.paths)
  try {
    await daemon.call('log.sync', {})
  } finally {
    daemon.close()
  }
  const found = lastQuoteOf(context.paths, session)
  if (found) return found
  throw new AmbitError(
    'ERR_INPUT_INVALID',
    session,
    'the log has no last quote of it',
    'there is one of each microvm session whose command ended by itself; of one that runs: --nonce HEX',
  )
}

async function verify(path: string, args: Arguments, context: Context): Promise<number> {
  const place = (name: string): string | undefined => {
    const given = text(args, name)
    return given === undefined ? undefined : resolve(context.cwd, given)
  }
  const document = readSmallFile(resolve(context.cwd, path), MAX_FILE)
  if (document === null)
    throw new AmbitError(
      'ERR_INPUT_INVALID',
      `attestation ${printable(path)}`,
      'there is no file that can be read, or it is too large',
      'name the one that ambit attest ID --out FILE wrote',
    )
  const attestation = parseAttestation(document)
  if (!attestation) return say({ ok: false, why: 'it is no attestation' }, path, args, context)
  const { session } = attestation
  const given = {
    log: place('log'),
    manifest: place('manifest'),
    imageKey: place('image-key'),
    snapshot: place('snapshot'),
  }
  const words = { logKey: text(args, 'key'), profile: text(args, 'profile') }
  const sources = Object.fromEntries(Object.entries({ ...given, ...words }).filter(([, value]) => value))
  const nonce = nonceOf(args, session)
  const expected = await expectationOf(session, nonce, { paths: context.paths, ...sources })
  return say(verifyAttestation(attestation, expected), path, args, context)
}

function say(verdict: Verdict, path: string, args: Arguments, context: Context): number {
  if (flag(args, 'json')) context.out(printableJson(JSON.stringify(verdict)))
  else if (verdict.ok) {
    const { image, profile, ak } = verdict.shown
    context.out(`ok: started from image ${image} with profile ${profile}; quoted by ${ak}`)
    context.out(
      'the TPM is software on that host: this binds its log to the image, and is no hardware attestation',
    )
  } else context.err(`ambit: attestation ${printable(path)}: ${verdict.why}`)
  return verdict.ok ? 0 : 1
}

function nonceOf(args: Arguments, session: string): string {
  const nonce = text(args, 'nonce')
  if (flag(args, 'last') === (nonce !== undefined)) throw usageError(command, 'say --nonce HEX or --last')
  if (nonce === undefined) return lastNonce(session)
  if (!/^([0-9a-f]{2}){16,64}$/i.test(nonce)) throw usageError(command, 'a nonce has 16 to 64 bytes, in hex')
  return nonce.toLowerCase()
}
