import { AmbitError } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'

/** What is wrong with a profile, and where. `why` may quote the file: it is escaped here. */
export const invalid = (place: string, why: string): AmbitError =>
  new AmbitError('ERR_PROFILE_INVALID', place, printable(why, 1000))
