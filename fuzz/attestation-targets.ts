/** What an auditor is handed as proof of a machine: every byte of it is its sender's. */
import { formatAttestation, parseAttestation } from '../src/runtime/attestation/document.ts'
import { parseEventLog, replay } from '../src/runtime/attestation/event-log.ts'
import { isSigned, parseAttestationKey, parseQuote } from '../src/runtime/attestation/quote.ts'
import { eventLogOf } from '../test/support/tpm.ts'
import type { Target } from './targets.ts'

const hex = (digits: string): Buffer => Buffer.from(digits, 'hex')
const demand = (holds: boolean, promise: string): void => {
  if (!holds) throw new Error(`broken: ${promise}`)
}

/** A `TPM2B`. */
const sized = (bytes: Buffer): Buffer => {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(bytes.length)
  return Buffer.concat([length, bytes])
}

const LOG = eventLogOf([
  { register: 8, text: 'kernel', digest: 'ab'.repeat(32) },
  { register: 12, text: 'profile', digest: '01'.repeat(32) },
  { register: 8, text: '', digest: '00'.repeat(32) },
])
/** The generator of P-256: a point of the curve. */
const X = hex('6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296')
const Y = hex('4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5')
const AREA = Buffer.concat([
  hex('0023000b00050072'),
  sized(Buffer.alloc(0)),
  hex('00100018000b00030010'),
  sized(X),
  sized(Y),
])
const KEY = sized(AREA)
const QUOTE = Buffer.concat([
  hex('ff5443478018'),
  sized(Buffer.alloc(34, 7)),
  sized(Buffer.alloc(32, 9)),
  Buffer.alloc(17 + 8),
  hex('00000001000b03009100'),
  sized(Buffer.alloc(32, 3)),
])
const SIGNATURE = Buffer.concat([hex('0018000b'), sized(X), sized(Y.subarray(1))])
const DOCUMENT = formatAttestation({
  v: 1,
  session: 's00000000-000000',
  nonce: 'ab'.repeat(32),
  ak: KEY.toString('hex'),
  eventLog: LOG.toString('hex'),
  quote: QUOTE.toString('hex'),
  signature: SIGNATURE.toString('hex'),
})

const key = parseAttestationKey(KEY)
if (!key || !parseQuote(QUOTE) || !parseEventLog(LOG) || !parseAttestation(DOCUMENT))
  throw new Error('a seed is none of what it stands for')

export const ATTESTATION_TARGETS: Readonly<Record<string, Target>> = {
  attestation: {
    seeds: [Buffer.from(DOCUMENT), Buffer.from('{"v":1}')],
    run: (input) => {
      const parsed = parseAttestation(input.toString())
      if (!parsed) return
      const again = parseAttestation(formatAttestation(parsed))
      demand(JSON.stringify(again) === JSON.stringify(parsed), 'what is written is read as the same')
      const bytes = Buffer.from(parsed.eventLog, 'hex')
      demand(bytes.toString('hex') === parsed.eventLog, 'all of the digits are bytes')
    },
  },
  'event-log': {
    seeds: [LOG, LOG.subarray(0, 65)],
    run: (input) => {
      const events = parseEventLog(input)
      if (!events) return
      demand(events.length <= 64 && events.length * 50 <= input.length, 'events lie within the log')
      const registers = new Set(events.map(({ register }) => register))
      const values = replay(events)
      demand(values.size === registers.size, 'a value for each register that is named')
      demand(
        [...values].every(([at, value]) => at <= 23 && value.length === 32),
        'of the registers that there are',
      )
      // What is read is all that there is: nobody who writes it down again gets other bytes.
      const text = ({ text }: { text: string }): boolean => !text.includes('\ufffd')
      if (events.every(text)) demand(eventLogOf(events).equals(input), 'no byte is passed over')
    },
  },
  quote: {
    seeds: [QUOTE, KEY, SIGNATURE],
    run: (input) => {
      const quote = parseQuote(input)
      if (quote) {
        demand(quote.nonce.length + quote.digest.length < 2 * input.length, 'its parts lie within it')
        demand(
          quote.registers.every((register, at) => register > (quote.registers[at - 1] ?? -1)),
          'registers ascend',
        )
      }
      const other = parseAttestationKey(input)
      demand(other === null || other.key.asymmetricKeyType === 'ec', 'a key is one of a curve')
      demand(!isSigned(QUOTE, input, key.key), 'nothing made up is a signature')
    },
  },
}
