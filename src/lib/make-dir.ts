import { existsSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { errnoOf } from './errors.ts'

/**
 * `mkdir -p`, 0700 unless told otherwise; gives what it made, outermost first. Node's own tries for ever where the parent
 * is there and takes no names (below /proc). What stands there already is left for the caller to look at.
 */
export function makeDir(dir: string, mode = 0o700): string[] {
  try {
    return made(dir, mode)
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT' || existsSync(dirname(dir))) throw error
  }
  return [...makeDir(dirname(dir), mode), ...made(dir, mode)]
}

function made(dir: string, mode: number): string[] {
  try {
    mkdirSync(dir, { mode })
    return [dir]
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error
    return []
  }
}
