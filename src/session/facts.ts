import { join } from 'node:path'
import type { Fact } from '../audit/fact.ts'
import { readJournal } from '../audit/journal.ts'
import { errnoOf } from '../lib/errors.ts'
import { journalDir, type Paths } from '../lib/paths.ts'

/** The facts of a session, ended or not, journal after journal. A journal that nobody wrote holds none. */
export function* factsOf(paths: Paths, id: string): Generator<Fact> {
  for (const name of ['run', 'view', 'launch']) {
    try {
      for (const { fact } of readJournal(join(journalDir(paths, id), `${name}.wal`))) yield fact
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error
    }
  }
}
