/** The state directory: journals, log and keys. Whoever can exchange it, or write to it, decides what the record says. */
import * as fs from 'node:fs'
import { AmbitError, messageOf } from './errors.ts'
import { makeDir } from './make-dir.ts'

/**
 * Makes `dir` (0700) if it is missing and checks that it is a directory of this account that others cannot write to.
 * Throws ERR_JOURNAL_FAILED; a place that does not fit is refused, never repaired.
 */
export function claimStateDir(dir: string): void {
  let stat: fs.Stats
  try {
    makeDir(dir)
    stat = fs.lstatSync(dir)
    fs.accessSync(dir, fs.constants.R_OK | fs.constants.W_OK | fs.constants.X_OK)
  } catch (error) {
    throw refused(dir, messageOf(error))
  }
  if (!stat.isDirectory()) throw refused(dir, 'it is a link, not a directory')
  if (stat.uid !== process.getuid?.()) throw refused(dir, 'it belongs to another account')
  if (stat.mode & 0o022) throw refused(dir, 'other accounts may write to it')
}

function refused(dir: string, why: string): AmbitError {
  return new AmbitError(
    'ERR_JOURNAL_FAILED',
    `will not keep state in ${dir}`,
    why,
    'make it a directory that only you can write to, or set AMBIT_HOME to one',
  )
}
