/** The verifier of attestations, against quotes that tpm2-tools made in a TPM of the test's own. */
import assert from 'node:assert/strict'
import { createSign, generateKeyPairSync, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { Attestation } from '../../src/runtime/attestation/document.ts'
import { parseAttestation } from '../../src/runtime/attestation/document.ts'
import { type Expectation, verifyAttestation } from '../../src/runtime/attestation/verify.ts'
import type { Manifest } from '../../src/runtime/microvm-image/manifest.ts'
import { eventLogOf, type Extension, judge, sha256, TestTpm, tpmToolsMissing } from '../support/tpm.ts'

const SESSION = 's00test01-abcdef'
const digests = { kernel: sha256('kernel'), initramfs: sha256('initramfs'), root: sha256('root') }
const part = (name: keyof typeof digests) => ({ name, size: 1, sha256: digests[name] })
const manifest: Manifest = {
  v: 1,
  architecture: 'x86_64',
  kernel: part('kernel'),
  initramfs: part('initramfs'),
  root: part('root'),
  commandLine: 'quiet ambit.root=1:2:3',
  verity: { blocks: 1, hash: sha256('hash'), salt: sha256('salt') },
  packages: [],
  programs: {},
}
const line = `${manifest.commandLine} tsc_early_khz=2445651 mitigations=off tpm_tis.force=1 tpm_tis.interrupts=0`
const [image, profile] = [sha256('manifest'), sha256('profile')]
const start = (change: Partial<Record<string, string>> = {}): Extension[] => {
  const own = change.line ?? line
  return [
    { register: 8, text: `kernel_cmdline: ${own}`, digest: sha256(own) },
    { register: 9, text: 'kernel', digest: change.kernel ?? digests.kernel },
    { register: 9, text: 'initramfs', digest: change.initramfs ?? digests.initramfs },
    { register: 9, text: 'root', digest: change.root ?? digests.root },
    ...(change.snapshot ? [{ register: 9, text: 'snapshot', digest: change.snapshot }] : []),
    { register: 12, text: 'ambit image manifest', digest: change.image ?? image },
    { register: 12, text: 'ambit profile', digest: change.profile ?? profile },
    { register: 15, text: `ambit session: ${SESSION}`, digest: sha256(SESSION) },
  ]
}

const dir = mkdtempSync(join(tmpdir(), 'ambit-tpm-'))
after(() => rmSync(dir, { recursive: true, force: true }))
let count = 0

/** A TPM that was extended with `events`; `attest` quotes it, with a log that says `told`. */
async function tpmWith(events: readonly Extension[]) {
  const place = join(dir, String(count++))
  const tpm = await TestTpm.start(place)
  for (const event of events) tpm.extend(event)
  return {
    tpm,
    place,
    attest: (nonce: string, told = events): Attestation => ({
      v: 1,
      session: SESSION,
      eventLog: eventLogOf(told).toString('hex'),
      ...tpm.quote(nonce),
    }),
  }
}

const expecting = ({ ak, eventLog }: Attestation, nonce: string): Expectation => ({
  session: SESSION,
  nonce,
  record: { ak, eventLog },
  manifest,
  image,
  snapshots: [],
  profile,
})

const whyNot = (attestation: Attestation, expected: Expectation): string => {
  const verdict = verifyAttestation(attestation, expected)
  return verdict.ok ? 'ok' : verdict.why
}

const flipped = (hex: string, at: number): string => {
  const bytes = Buffer.from(hex, 'hex')
  const index = at < 0 ? bytes.length + at : at
  bytes[index] = (bytes[index] ?? 0) ^ 1
  return bytes.toString('hex')
}

test('attestation: takes what a TPM quotes, as tpm2-tools do, and refuses each part that was altered', {
  skip: tpmToolsMissing ?? false,
}, async () => {
  const { tpm, place, attest } = await tpmWith(start())
  const nonce = randomBytes(32).toString('hex')
  const good = attest(nonce)
  const expected = expecting(good, nonce)
  const verdict = verifyAttestation(good, expected)
  assert.ok(verdict.ok, JSON.stringify(verdict))
  const judged = judge(join(place, 'judge'), good, nonce)
  assert.ok(judged.signed, 'tpm2_checkquote agrees')
  assert.deepEqual(judged.registers, verdict.shown.registers, 'tpm2_eventlog agrees')
  assert.ok(!judge(join(place, 'judge'), good, randomBytes(32).toString('hex')).signed)

  // Where record and file are altered alike, the TPM's word is what is left.
  const alike = (change: Partial<Attestation>): string => {
    const altered = { ...good, ...change }
    return whyNot(altered, expecting(altered, nonce))
  }
  const other = randomBytes(32).toString('hex')
  const key = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const { x = '', y = '' } = key.publicKey.export({ format: 'jwk' })
  const point = Buffer.from(good.ak, 'hex')
  Buffer.from(x, 'base64url').copy(point, point.length - 66)
  Buffer.from(y, 'base64url').copy(point, point.length - 32)
  const forged = flipped(good.quote, -1)
  const plain = createSign('sha256')
    .update(Buffer.from(forged, 'hex'))
    .sign({ key: key.privateKey, dsaEncoding: 'ieee-p1363' })
  const signature = Buffer.concat([
    Buffer.from('0018000b0020', 'hex'),
    plain.subarray(0, 32),
    Buffer.from('0020', 'hex'),
    plain.subarray(32),
  ])
  const ownKey = { ak: point.toString('hex'), quote: forged, signature: signature.toString('hex') }
  const decrypts = Buffer.from(good.ak, 'hex')
  decrypts.writeUInt32BE(decrypts.readUInt32BE(6) & ~(1 << 16), 6)
  const loose = { ak: decrypts.toString('hex') }
  const refusals: [string, string, RegExp][] = [
    ['another session', whyNot({ ...good, session: 's00test0-aaaaaa' }, expected), /another session/],
    ['another nonce', whyNot(good, { ...expected, nonce: other }), /another nonce/],
    [
      'a key of somebody else',
      whyNot({ ...good, ...ownKey }, expected),
      /key is not the one that the log has/,
    ],
    [
      'an event log of somebody else',
      whyNot({ ...good, eventLog: eventLogOf([]).toString('hex') }, expected),
      /event log is not the one/,
    ],
    ['an altered quote', alike({ quote: forged }), /not signed by its key/],
    ['an altered signature', alike({ signature: flipped(good.signature, -1) }), /not signed by its key/],
    [
      'a digest that was never put in',
      alike({ eventLog: eventLogOf(start({ kernel: sha256('x') })).toString('hex') }),
      /holds something else than the event log/,
    ],
    [
      'an event left out',
      alike({ eventLog: eventLogOf(start().slice(0, 6)).toString('hex') }),
      /quote is of registers/,
    ],
    [
      'a text that lies',
      alike({
        eventLog: eventLogOf(
          start().with(1, { register: 9, text: 'initramfs', digest: digests.kernel }),
        ).toString('hex'),
      }),
      /did not start from this kernel/,
    ],
    ['a log of another form', alike({ eventLog: `${good.eventLog}00` }), /event log is none/],
    ['a key that signs anything', alike(loose), /key is not one that signs only/],
    [
      'another manifest',
      whyNot(good, { ...expected, image: sha256('y') }),
      /did not start from this manifest/,
    ],
    [
      'another kernel',
      whyNot(good, {
        ...expected,
        manifest: { ...manifest, kernel: { ...manifest.kernel, sha256: sha256('y') } },
      }),
      /did not start from this kernel/,
    ],
    [
      'another line',
      whyNot(good, { ...expected, manifest: { ...manifest, commandLine: 'loud' } }),
      /command line is not the image's/,
    ],
    [
      'another profile',
      whyNot(good, { ...expected, profile: sha256('y') }),
      /did not start from this profile/,
    ],
  ]
  for (const [what, why, wanted] of refusals) assert.match(why, wanted, what)

  tpm.extend({ register: 9, digest: sha256('by the guest') })
  const later = attest(nonce)
  assert.match(whyNot(later, expected), /somebody in the guest has extended a register/)
  assert.ok(judge(join(place, 'judge'), later, nonce).signed, 'control: the quote itself is right')
  await tpm.stop()
})

test('attestation: refuses a start with more on its command line', {
  skip: tpmToolsMissing ?? false,
}, async () => {
  const { tpm, attest } = await tpmWith(start({ line: `${line} init=/bin/sh` }))
  const nonce = randomBytes(32).toString('hex')
  const found = attest(nonce)
  assert.match(whyNot(found, expecting(found, nonce)), /command line is not the image's: .*init=\/bin\/sh/)
  await tpm.stop()
})

test('attestation: takes a snapshot only when it was signed for the image', {
  skip: tpmToolsMissing ?? false,
}, async () => {
  const snapshot = sha256('snapshot')
  const { tpm, attest } = await tpmWith(start({ snapshot }))
  const nonce = randomBytes(32).toString('hex')
  const found = attest(nonce)
  const expected = expecting(found, nonce)
  assert.match(whyNot(found, expected), /a snapshot that nobody signed for this image/)
  const verdict = verifyAttestation(found, { ...expected, snapshots: [sha256('other'), snapshot] })
  assert.ok(verdict.ok && verdict.shown.snapshot === snapshot, JSON.stringify(verdict))
  await tpm.stop()
})

test('attestation: what is none is refused as such', () => {
  const bytes = 'ab'
  const whole = {
    v: 1,
    session: SESSION,
    nonce: bytes,
    ak: bytes,
    eventLog: bytes,
    quote: bytes,
    signature: bytes,
  }
  assert.ok(parseAttestation(JSON.stringify(whole)))
  for (const change of [
    { v: 2 },
    { session: '\u001b]52;c;x\u0007' },
    { nonce: 'xy' },
    { quote: '' },
    { more: 1 },
    { ak: 'a'.repeat(1 << 20) },
  ])
    assert.equal(parseAttestation(JSON.stringify({ ...whole, ...change })), null)
  assert.equal(parseAttestation('{'), null)
  const attestation = parseAttestation(JSON.stringify(whole))
  assert.ok(attestation)
  assert.match(whyNot(attestation, expecting(attestation, bytes)), /key is not one that signs only/)
})
