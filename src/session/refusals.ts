/** The refusals of a session that ran or runs, each with its remedy, from what is kept in its directory. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readJournal } from '../audit/journal.ts'
import { errnoOf } from '../lib/errors.ts'
import { journalDir, type Paths, sessionDir } from '../lib/paths.ts'
import type { Plan } from '../profile/plan.ts'
import { type Remedy, RemedyFold } from './remedy.ts'

/** Newest last. */
export function remediesOf(paths: Paths, id: string): Remedy[] {
  const fold = new RemedyFold(planOf(paths, id))
  for (const name of ['run', 'view', 'launch']) {
    try {
      for (const { fact } of readJournal(join(journalDir(paths, id), `${name}.wal`))) fold.add(fact)
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error
    }
  }
  return fold.result()
}

/** The plan that `registerSession` kept; null for a session that was refused before it had one. */
export function planOf(paths: Paths, id: string): Plan | null {
  try {
    return JSON.parse(readFileSync(join(sessionDir(paths, id), 'plan.json'), 'utf8')) as Plan
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null
    throw error
  }
}
