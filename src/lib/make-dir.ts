import { existsSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { errnoOf } from './errors.ts'

/**
 * `mkdir -p`, 0700. Node's own tries for ever where the parent is there and takes no names (below /proc). What stands
 * there already is left for the caller to look at.
 */
export function makeDir(dir: string): void {
  if (made(dir)) return
  makeDir(dirname(dir))
  made(dir)
}

/** False when the parent is missing. */
function made(dir: string): boolean {
  try {
    mkdirSync(dir, { mode: 0o700 })
  } catch (error) {
    const errno = errnoOf(error)
    if (errno === 'ENOENT' && !existsSync(dirname(dir))) return false
    if (errno !== 'EEXIST') throw error
  }
  return true
}
