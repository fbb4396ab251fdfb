/** `via: mount` shows a directory as it is, so nothing may lie in it that the view would hide. */
import { type Dirent, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { compileGlobs } from '../lib/glob.ts'
import { printable } from '../lib/printable.ts'
import type { RootPlan } from './plan.ts'

/** More than this is not looked through at every start; the view has no such bound. */
const MAX_ENTRIES = 200_000

/** @throws AmbitError ERR_PATH_FORBIDDEN naming the first entry that needs the view. */
export function requireMountable(root: RootPlan): void {
  const hidden = compileGlobs(root.hide)
  const pending = [root.path]
  let seen = 0
  for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
    for (const entry of entriesOf(root, dir)) {
      const path = join(dir, entry.name)
      if (++seen > MAX_ENTRIES) throw refused(root, `has more than ${MAX_ENTRIES} entries to look through`)
      if (hidden(relative(root.path, path)))
        throw refused(root, `${printable(path)} is hidden by the profile`)
      // A socket or FIFO is a way out to whoever listens on the host; a read-only mount does not close it.
      if (entry.isSocket() || entry.isFIFO()) throw refused(root, `${printable(path)} is a socket or pipe`)
      if (entry.isDirectory()) pending.push(path)
    }
  }
}

function entriesOf(root: RootPlan, dir: string): Dirent[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
  } catch (error) {
    throw refused(root, `${printable(dir)} cannot be looked through: ${printable(messageOf(error))}`)
  }
}

const refused = (root: RootPlan, why: string): AmbitError =>
  new AmbitError(
    'ERR_PATH_FORBIDDEN',
    `${root.id} (${printable(root.path)})`,
    `via: mount is not possible: ${why}`,
    'use via: view',
  )
