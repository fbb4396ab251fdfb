/** TPM 2.0 structures of a quote (TPM 2.0 Library, part 2). All bytes are the sender's. */
import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto'
import { Bytes } from './bytes.ts'

const ECC = 0x0023
const SHA256 = 0x000b
const ECDSA = 0x0018
const NIST_P256 = 0x0003
const NULL = 0x0010
/** fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign; not decrypt: it signs what its TPM made and no more. */
const ATTESTS = (1 << 1) | (1 << 4) | (1 << 5) | (1 << 16) | (1 << 18)
const DECRYPT = 1 << 17
/** `TPM_GENERATED_VALUE`, `TPM_ST_ATTEST_QUOTE`. */
const GENERATED = 0xff544347
const QUOTE = 0x8018

export interface AttestationKey {
  readonly key: KeyObject
  /** As TPMs name it: algorithm and digest of the public area, hex. */
  readonly name: string
}

/** The key of a `TPM2B_PUBLIC`; null for one that is not a restricted ECDSA key on P-256. */
export function parseAttestationKey(bytes: Buffer): AttestationKey | null {
  try {
    const outer = new Bytes(bytes)
    const area = outer.sized()
    const inner = new Bytes(area)
    const form = [inner.u16be(), inner.u16be()]
    const attributes = inner.u32be()
    inner.sized()
    form.push(inner.u16be(), inner.u16be(), inner.u16be(), inner.u16be(), inner.u16be())
    const [x, y] = [inner.sized(), inner.sized()]
    const isOurs =
      form.join() === [ECC, SHA256, NULL, ECDSA, SHA256, NIST_P256, NULL].join() &&
      (attributes & (ATTESTS | DECRYPT)) === ATTESTS
    if (!isOurs || !outer.ended || !inner.ended) return null
    const text = (number: Buffer): string => padded(number).toString('base64url')
    const key = createPublicKey({
      format: 'jwk',
      key: { kty: 'EC', crv: 'P-256', x: text(x), y: text(y) },
    })
    return { key, name: `000b${createHash('sha256').update(area).digest('hex')}` }
  } catch {
    return null // cut off, or no point of the curve
  }
}

export interface Quote {
  /** Hex. */
  readonly nonce: string
  /** Registers of the SHA-256 bank, ascending. */
  readonly registers: readonly number[]
  /** SHA-256 over their values, one after the other. */
  readonly digest: Buffer
}

/** Null for what is no quote of registers of the SHA-256 bank alone. */
export function parseQuote(bytes: Buffer): Quote | null {
  try {
    const from = new Bytes(bytes)
    if (from.u32be() !== GENERATED || from.u16be() !== QUOTE) return null
    from.sized() // The signer's name, from its TPM's root.
    const nonce = from.sized().toString('hex')
    from.take(17 + 8) // Clock, firmware version.
    if (from.u32be() !== 1 || from.u16be() !== SHA256) return null
    const selection = from.take(from.take(1).readUInt8())
    const registers = Array.from({ length: selection.length * 8 }, (_, register) => register).filter(
      (register) => ((selection[register >> 3] ?? 0) >> (register & 7)) & 1,
    )
    const digest = from.sized()
    return from.ended ? { nonce, registers, digest } : null
  } catch {
    return null // cut off
  }
}

/** True when `signature`, a `TPMT_SIGNATURE`, is that of `key` over `quote`. */
export function isSigned(quote: Buffer, signature: Buffer, key: KeyObject): boolean {
  try {
    const from = new Bytes(signature)
    if (from.u16be() !== ECDSA || from.u16be() !== SHA256) return false
    const plain = Buffer.concat([padded(from.sized()), padded(from.sized())])
    return from.ended && verify('sha256', quote, { key, dsaEncoding: 'ieee-p1363' }, plain)
  } catch {
    return false // cut off
  }
}

/** A number of P-256 has 32 bytes; a TPM may leave out leading zeros. */
function padded(number: Buffer): Buffer {
  if (number.length > 32) throw new RangeError('too long')
  return Buffer.concat([Buffer.alloc(32 - number.length), number])
}
