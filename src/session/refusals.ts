/** The refusals of a session that ran or runs, each with its remedy, from what is kept in its directory. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { errnoOf } from '../lib/errors.ts'
import { type Paths, sessionDir } from '../lib/paths.ts'
import type { Plan } from '../profile/plan.ts'
import { factsOf } from './facts.ts'
import { type Remedy, RemedyFold } from './remedy.ts'

/** Newest last. */
export function remediesOf(paths: Paths, id: string): Remedy[] {
  const fold = new RemedyFold(planOf(paths, id))
  for (const fact of factsOf(paths, id)) fold.add(fact)
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
