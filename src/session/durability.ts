/** The barrier in front of egress, and the session label that egress is judged by. */
import { closeSync, openSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { Barrier } from '../audit/barrier.ts'
import type { Journal } from '../audit/journal.ts'
import { errnoOf } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { journalDir, type Paths } from '../lib/paths.ts'
import { LABELS, type Label } from '../profile/plan.ts'
import type { SessionId } from './id.ts'

/** Makes every record of the session so far durable. One fdatasync a journal that grew, shared by concurrent callers. */
export function openBarrier(paths: Paths, id: SessionId, journal: Journal): Barrier {
  const dir = journalDir(paths, id)
  return new Barrier(journal, [join(dir, 'view.wal'), join(dir, 'launch.wal')])
}

const NONE: readonly Label[] = []

/**
 * Watches the view's journal for labels of files that were read.
 *
 * The view writes each record before it releases the read, so a scan at decision time has seen every file that the
 * request could carry. Only the label is looked at: the file may hold hundreds of thousands of records.
 */
export class LabelWatch {
  readonly #path: string
  #fd: number | null = null
  #offset = 0
  #tail = ''

  constructor(paths: Paths, id: SessionId) {
    this.#path = join(journalDir(paths, id), 'view.wal')
  }

  /** Labels that appeared since the last call, highest first is not promised. */
  poll(): readonly Label[] {
    this.#fd ??= open(this.#path)
    if (this.#fd === null) return NONE
    const end = native().fileSize(this.#fd)
    if (end === this.#offset) return NONE
    const seen = new Set<Label>()
    const buffer = Buffer.allocUnsafe(Math.min(Math.max(end - this.#offset, 0), 1 << 18))
    while (this.#offset < end) {
      const count = readSync(this.#fd, buffer, 0, buffer.length, this.#offset)
      if (count === 0) break
      this.#offset += count
      const text = this.#tail + buffer.toString('latin1', 0, count)
      for (const label of LABELS) if (text.includes(`"label":"${label}"`)) seen.add(label)
      this.#tail = text.slice(-32)
    }
    return [...seen]
  }

  close(): void {
    if (this.#fd !== null) closeSync(this.#fd)
    this.#fd = null
  }
}

function open(path: string): number | null {
  try {
    return openSync(path, 'r')
  } catch (error) {
    // Not there yet: the view makes it before it serves the first request. Anything else (no descriptor left) must not
    // read as "nothing was read": the gate takes a throw for the worst state.
    if (errnoOf(error) === 'ENOENT') return null
    throw error
  }
}
