/** Reads files that somebody else may have put there: a pipe never answers, and what is sparse costs its author nothing. */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs'

const { O_RDONLY, O_NONBLOCK, O_NOCTTY } = constants

/** The first `most` bytes of a regular file; null where there is none that can be read. */
export function readBeginning(path: string, most: number): Buffer | null {
  let fd: number | undefined
  try {
    // Looked at first: opening a device can be an act of its own. And again behind it, where nobody exchanges it.
    if (!statSync(path).isFile()) return null
    fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
    const stat = fstatSync(fd)
    if (!stat.isFile()) return null
    const buffer = Buffer.alloc(Math.min(stat.size, most))
    return buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, 0))
  } catch {
    return null // absent, unreadable, or taken away meanwhile
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

/** The whole of a regular file of at most `most` bytes; says by an exception why there is none. */
export function readRegular(path: string, most: number): Buffer {
  const fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw new Error('it is no regular file')
    if (stat.size > most) throw new Error(`it is longer than ${most} bytes`)
    const buffer = Buffer.alloc(stat.size)
    return buffer.subarray(0, readSync(fd, buffer, 0, buffer.length, 0))
  } finally {
    closeSync(fd)
  }
}

/** The whole of a regular file as text; null as well where it is longer than `most` bytes. */
export function readSmallFile(path: string, most: number): string | null {
  const bytes = readBeginning(path, most + 1)
  return bytes === null || bytes.length > most ? null : bytes.toString('utf8')
}
