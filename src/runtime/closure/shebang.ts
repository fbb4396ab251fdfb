import { closeSync, openSync, readSync } from 'node:fs'
import { basename } from 'node:path'

/** What the first line of a script asks for: an absolute interpreter, or a name to look up on PATH. */
export type Interpreter = { readonly path: string } | { readonly name: string }

/** The kernel reads 256 bytes of a `#!` line (BINPRM_BUF_SIZE). */
const LIMIT = 256

/** First bytes of a file. */
export function head(path: string, length = LIMIT): Buffer {
  const fd = openSync(path, 'r')
  try {
    const buffer = Buffer.alloc(length)
    return buffer.subarray(0, readSync(fd, buffer, 0, length, 0))
  } finally {
    closeSync(fd)
  }
}

/**
 * Parses a `#!` line as the kernel and `env(1)` do; null when there is none.
 * `bytes` come from the file, which its author controls.
 */
export function parseShebang(bytes: Buffer): Interpreter | null {
  if (bytes[0] !== 0x23 || bytes[1] !== 0x21) return null
  const line = bytes.subarray(2, LIMIT).toString('latin1').split('\n', 1)[0] ?? ''
  const [interpreter, ...words] = line.trim().split(/[ \t]+/)
  if (!interpreter?.startsWith('/')) return null
  if (basename(interpreter) !== 'env') return { path: interpreter }
  const name = words.find((word) => !word.startsWith('-') && !word.includes('='))
  return name ? (name.startsWith('/') ? { path: name } : { name }) : { path: interpreter }
}

export const isElf = (bytes: Buffer): boolean => bytes.subarray(0, 4).equals(Buffer.from('\x7fELF', 'latin1'))
