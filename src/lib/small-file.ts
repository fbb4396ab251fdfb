/** Reads files that somebody else may have put there: a pipe never answers, and what is sparse costs its author nothing. */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs'

const { O_RDONLY, O_NONBLOCK, O_NOCTTY } = constants

/** The first `most` bytes of a regular file, and its size. */
function beginning(path: string, most: number): { bytes: Buffer; size: number } {
  // Looked at first: opening a device can be an act of its own. And again behind it, where nobody exchanges it.
  if (!statSync(path).isFile()) throw new Error(IRREGULAR)
  const fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw new Error(IRREGULAR)
    const buffer = Buffer.alloc(Math.min(stat.size, most))
    return { bytes: buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, 0)), size: stat.size }
  } finally {
    closeSync(fd)
  }
}

const IRREGULAR = 'it is no regular file'

/** The first `most` bytes of a regular file; null where there is none that can be read. */
export function readBeginning(path: string, most: number): Buffer | null {
  try {
    return beginning(path, most).bytes
  } catch {
    return null // absent, unreadable, or taken away meanwhile
  }
}

/** The whole of a regular file of at most `most` bytes; says by an exception why there is none. */
export function readRegular(path: string, most: number): Buffer {
  const { bytes, size } = beginning(path, most)
  if (size > most) throw new Error(`it is longer than ${most} bytes`)
  return bytes
}

/** The whole of a regular file as text; null as well where it is longer than `most` bytes. */
export function readSmallFile(path: string, most: number): string | null {
  const bytes = readBeginning(path, most + 1)
  return bytes === null || bytes.length > most ? null : bytes.toString('utf8')
}
