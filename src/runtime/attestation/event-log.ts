/**
 * The event log of a machine, in the crypto-agile form of the TCG (PC Client Platform Firmware Profile, section 10),
 * with SHA-256 alone. `tpm2_eventlog` reads the same bytes.
 */
import { createHash } from 'node:crypto'
import { Bytes } from './bytes.ts'

export interface Measured {
  readonly register: number
  /** Hex. */
  readonly digest: string
  /** The log's own word on what it is of: nothing vouches for it but a digest that fits. */
  readonly text: string
}

const NO_ACTION = 3
const IPL = 13
const SHA256 = 0x000b
/** `TCG_EfiSpecIDEvent`: signature, platform class, version 2.0, 8-byte words; one algorithm, of 32 bytes; no more. */
const SPECIFICATION = Buffer.concat([
  Buffer.from('Spec ID Event03\0'),
  Buffer.from('00000000' + '00020002' + '01000000' + '0b002000' + '00', 'hex'),
])
const MOST = 64

/** Null for what is no such log, or has anything in it that Ambit does not measure. All bytes are the sender's. */
export function parseEventLog(log: Buffer): readonly Measured[] | null {
  try {
    const bytes = new Bytes(log)
    const [register, type] = [bytes.u32le(), bytes.u32le()]
    if (register !== 0 || type !== NO_ACTION || bytes.take(20).some((byte) => byte !== 0)) return null
    if (!bytes.take(bytes.u32le()).equals(SPECIFICATION)) return null
    const events: Measured[] = []
    while (!bytes.ended && events.length < MOST) events.push(parseEvent(bytes))
    return bytes.ended ? events : null
  } catch {
    return null // cut off
  }
}

function parseEvent(bytes: Bytes): Measured {
  const register = bytes.u32le()
  if (register > 23 || bytes.u32le() !== IPL || bytes.u32le() !== 1 || bytes.u16le() !== SHA256)
    throw new RangeError('an event that Ambit does not write')
  const digest = bytes.take(32).toString('hex')
  const text = bytes.take(bytes.u32le()).toString()
  if (!text.endsWith('\0')) throw new RangeError('a text without end')
  return { register, digest, text: text.slice(0, -1) }
}

/** What the registers hold after `events`, where all begin with zeros. */
export function replay(events: readonly Measured[]): ReadonlyMap<number, Buffer> {
  const values = new Map<number, Buffer>()
  for (const { register, digest } of events)
    values.set(
      register,
      createHash('sha256')
        .update(values.get(register) ?? Buffer.alloc(32))
        .update(digest, 'hex')
        .digest(),
    )
  return values
}
