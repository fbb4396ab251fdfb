/** Text of an attacker's choosing, as YAML that means it to the letter. */
import { printable } from '../lib/printable.ts'

const MOST = 512

/**
 * A double-quoted YAML scalar, or null when a person reading it could not see what it is: control, bidi and invisible
 * characters, and what is too long to read. JSON's escapes are YAML's.
 */
export function quoted(text: string): string | null {
  return text.length > MOST || printable(text, MOST) !== text ? null : JSON.stringify(text)
}

/** A flow sequence of scalars that are quoted already. */
export const flow = (items: readonly (string | number)[]): string => `[${items.join(', ')}]`
