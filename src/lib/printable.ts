/* oxlint-disable no-control-regex, no-misleading-character-class -- these characters, each by itself, are what this file is about */
/**
 * Makes attacker-controlled text (file names, host names, arguments, reasons) safe to show to a person.
 *
 * Control characters, C1 bytes, bidi and zero-width characters, tags and lone surrogates become visible escapes,
 * so a name can neither move the cursor nor reorder a line nor imitate another line (H-04 to H-08).
 */
const UNSAFE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff]|[\u{e0000}-\u{e0fff}]|\p{Cs}/gu

/** Escapes `text` for display; at most `limit` characters, the cut is visible. */
export function printable(text: string, limit = 500): string {
  const escaped = text.replace(UNSAFE, (char) => {
    const code = char.codePointAt(0) ?? 0
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`
  })
  return escaped.length <= limit ? escaped : `${escaped.slice(0, limit)}…(${escaped.length - limit} more)`
}

/**
 * The same JSON value in characters that no terminal obeys: JSON.stringify escapes below U+0020 only, and a name with
 * a C1 or bidi character would reach the screen of whoever reads `--json`.
 */
export function printableJson(json: string): string {
  return json.replace(UNSAFE, (char) =>
    char < ' '
      ? char
      : char
          .split('')
          .reduce((out, unit) => `${out}\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`, ''),
  )
}
