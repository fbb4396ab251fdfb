import { createHash } from 'node:crypto'

/** What every JDK opens its truststore with. It protects nothing: certificates are public. */
const PASSWORD = 'changeit'

/**
 * A Java truststore (JKS, version 2) with every certificate of the PEM texts.
 *
 * JKS because each JDK since 1.2 reads it under any name and default type (`keystore.type.compat`), and because it is a
 * plain list with a SHA-1 checksum. Layout: sun.security.provider.JavaKeyStore.engineStore in OpenJDK.
 */
export function javaTruststore(pems: readonly string[], now: Date): Buffer {
  const parts: Entries[] = []
  let count = 0
  for (const pem of pems) {
    const entries = entriesOf(pem, count, now)
    parts.push(entries)
    count += entries.count
  }
  const body = Buffer.concat([u32(0xfeedfeed), u32(2), u32(count), ...parts.map(({ bytes }) => bytes)])
  return Buffer.concat([body, keyed(body)])
}

/** Trusted certificates as the store lists them. */
interface Entries {
  readonly of: string
  readonly count: number
  readonly bytes: Buffer
}

/** Of the machine's own roots, which are the same at every start: used again for the very same text. */
let first: Entries | null = null

function entriesOf(pem: string, from: number, now: Date): Entries {
  if (from === 0 && first?.of === pem) return first
  const certificates = certificatesIn(pem)
  const bytes = Buffer.concat(
    certificates.flatMap((certificate, index) => [
      u32(2), // a trusted certificate
      utf(`ambit-${from + index}`),
      u64(BigInt(now.getTime())),
      utf('X.509'),
      u32(certificate.length),
      certificate,
    ]),
  )
  const entries = { of: pem, count: certificates.length, bytes }
  if (from === 0) first = entries
  return entries
}

/** DER of each certificate of a PEM text. Runs at every start on some 140 of them: splitting beats matching. */
function certificatesIn(pem: string): Buffer[] {
  const blocks = pem.split('-----BEGIN CERTIFICATE-----').slice(1)
  return blocks.map((block) => Buffer.from(block.slice(0, block.indexOf('-----END')), 'base64'))
}

/** SHA-1 over the password in UTF-16BE, a fixed phrase, and the body. */
function keyed(body: Buffer): Buffer {
  const password = Buffer.from(PASSWORD, 'utf16le').swap16()
  return createHash('sha1').update(password).update('Mighty Aphrodite').update(body).digest()
}

function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4)
  buffer.writeUInt32BE(value)
  return buffer
}

function u64(value: bigint): Buffer {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64BE(value)
  return buffer
}

/** DataOutput.writeUTF for ASCII text. */
function utf(text: string): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(text.length)
  return Buffer.concat([length, Buffer.from(text, 'latin1')])
}
