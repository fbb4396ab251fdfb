/** A session that was refused before it began is evidence too. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Journal } from '../audit/journal.ts'
import { connectDaemon } from '../daemon/client.ts'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { journalDir, sessionDir } from '../lib/paths.ts'
import { newSessionId } from './id.ts'
import type { SessionRequest } from './request.ts'

/** Records that `request` was refused with `error` and has it sequenced. */
export async function recordRefusal(request: SessionRequest, error: AmbitError): Promise<void> {
  const id = newSessionId()
  mkdirSync(journalDir(request.paths, id), { recursive: true, mode: 0o700 })
  const journal = Journal.open(join(journalDir(request.paths, id), 'run.wal'))
  const reason = messageOf(error)
  journal.append({
    k: 'decision',
    action: 'session.start',
    effect: error.code === 'ERR_APPROVAL_REQUIRED' ? 'ask' : 'deny',
    reason: error.code,
    rule: null,
    target: `${request.profile}: ${request.argv.join(' ').slice(0, 500)}`,
  })
  journal.append({ k: 'session.end', outcome: 'refused', exit: error.exitCode, reason })
  await journal.sync()
  journal.close()
  const daemon = await connectDaemon(request.paths)
  try {
    await daemon.call('session.open', {
      id,
      dir: sessionDir(request.paths, id),
      pid: process.pid,
      profile: request.profile,
      runtime: 'none',
      agent: request.argv[0] ?? '',
      project: request.project,
      startedAt: Date.now(),
    })
    await daemon.call('session.close', { id })
  } finally {
    daemon.close()
  }
}

/** True for errors that say no, as opposed to errors that say broken. */
export const isRefusal = (error: unknown): error is AmbitError =>
  error instanceof AmbitError && error.exitCode === 126
