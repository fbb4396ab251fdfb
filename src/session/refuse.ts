/** A session that was refused before it began is evidence too. */
import { AmbitError, messageOf } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { withRecord } from './record.ts'
import type { SessionRequest } from './request.ts'

/** Records that `request` was refused with `error` and has it sequenced. */
export async function recordRefusal(request: SessionRequest, error: AmbitError): Promise<void> {
  const { profile, argv, project, paths } = request
  await withRecord(paths, { profile, agent: argv[0] ?? '', project }, async (journal) => {
    journal.append({
      k: 'decision',
      action: 'session.start',
      effect: error.code === 'ERR_APPROVAL_REQUIRED' ? 'ask' : 'deny',
      reason: error.code,
      rule: null,
      target: `${profile}: ${native().redactWords(argv).join(' ').slice(0, 500)}`,
    })
    journal.append({ k: 'session.end', outcome: 'refused', exit: error.exitCode, reason: messageOf(error) })
  })
}

/** True for errors that say no, as opposed to errors that say broken. */
export const isRefusal = (error: unknown): error is AmbitError =>
  error instanceof AmbitError && error.exitCode === 126
