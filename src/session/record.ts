/** A short record of its own for what happens outside a running session: a refused start, a review. */
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { Journal } from '../audit/journal.ts'
import { connectDaemon } from '../daemon/client.ts'
import { journalDir, type Paths, sessionDir } from '../lib/paths.ts'
import { newSessionId, type SessionId } from './id.ts'

export interface RecordOf {
  readonly profile: string
  /** What acted: `ambit review`, or the command that was refused. */
  readonly agent: string
  readonly project: string | null
}

/** Runs `work` with a journal of its own; all that it appended is in the signed log when this resolves. */
export async function withRecord<T>(
  paths: Paths,
  { profile, agent, project }: RecordOf,
  work: (journal: Journal, id: SessionId) => Promise<T>,
): Promise<T> {
  const id = newSessionId()
  makeDir(journalDir(paths, id))
  const journal = Journal.open(join(journalDir(paths, id), 'run.wal'))
  const daemon = await connectDaemon(paths)
  try {
    const told = { id, profile, runtime: 'none', agent: agent.slice(0, 200), project, startedAt: Date.now() }
    await daemon.call('session.open', { ...told, dir: sessionDir(paths, id), pid: process.pid })
    try {
      return await work(journal, id)
    } finally {
      await journal.sync()
      journal.close()
      await daemon.call('session.close', { id })
    }
  } finally {
    daemon.close()
  }
}
