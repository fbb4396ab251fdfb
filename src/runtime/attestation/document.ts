/** An attestation as it travels: a machine's quote, with the key and the event log that it is checked by. All bytes in hex. */
import * as z from 'zod'

const hex = (most: number) =>
  z
    .string()
    .max(2 * most)
    .regex(/^([0-9a-f]{2})+$/)

/** A nonce as a TPM takes it. */
export const nonceSchema = hex(64)

export const quotedSchema = z.strictObject({
  nonce: nonceSchema,
  /** `TPM2B_PUBLIC` of the attestation key. */
  ak: hex(1024),
  /** TCG, crypto agile. */
  eventLog: hex(1 << 15),
  /** `TPMS_ATTEST`. */
  quote: hex(2048),
  /** `TPMT_SIGNATURE`. */
  signature: hex(1024),
})
const schema = z.strictObject({
  v: z.literal(1),
  session: z.string().regex(/^s[0-9a-z]{8}-[0-9a-z]{6}$/),
  ...quotedSchema.shape,
})

/** What a TPM gives, and what it was given before the start. */
export type Quoted = z.infer<typeof quotedSchema>
export type Attestation = z.infer<typeof schema>

/** Null for what is none; all of `text` is the sender's. */
export function parseAttestation(text: string): Attestation | null {
  try {
    const parsed = schema.safeParse(JSON.parse(text))
    return parsed.success ? parsed.data : null
  } catch {
    return null // no JSON
  }
}

export const formatAttestation = (attestation: Attestation): string =>
  `${JSON.stringify(attestation, null, 1)}\n`
