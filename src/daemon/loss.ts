/** A session whose `ambit run` is gone without a word: the daemon says in `daemon.wal` what can be said. */
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import type { Fact, FactBody } from '../audit/fact.ts'
import { Journal, readJournal } from '../audit/journal.ts'
import { errnoOf } from '../lib/errors.ts'
import { type Paths, journalDir } from '../lib/paths.ts'
import { unfinishedBursts } from './intents.ts'

/** Intents listed one by one; the rest is counted. */
const MAX_LISTED = 100

export interface Loss {
  /** Why the session ended, for its record. */
  readonly reason: string
  /** The machine went down with it: what was not synced may be gone. A killed process takes nothing. */
  readonly withMachine: boolean
}

/**
 * Writes the end of session `id` and the intents that have no outcome, durably. Once: a second call,
 * after a crash in between, finds the end there.
 */
export async function recordLoss(paths: Paths, id: string, loss: Loss): Promise<void> {
  const dir = journalDir(paths, id)
  makeDir(dir)
  if (hasEnd(dir)) return
  const journal = Journal.open(join(dir, 'daemon.wal'))
  try {
    for (const fact of orphanFacts(dir)) journal.append(fact)
    if (loss.withMachine) for (const fact of lostWrites(dir)) journal.append(fact)
    journal.append({ k: 'session.end', outcome: 'killed', exit: 125, reason: loss.reason })
    await journal.sync()
  } finally {
    journal.close()
  }
}

/** Writes, durably, that `by` had session `id` killed although its `ambit run` did not obey. */
export async function recordKill(paths: Paths, id: string, by: string): Promise<void> {
  const journal = Journal.open(join(journalDir(paths, id), 'daemon.wal'))
  const reason = `asked by ${by}; ambit run did not obey and is killed itself`
  try {
    journal.append({ k: 'decision', action: 'session.kill', effect: 'allow', reason, rule: null, target: id })
    await journal.sync()
  } finally {
    journal.close()
  }
}

/** True when the session's own journal or ours says how it ended. */
export const hasEnd = (dir: string): boolean =>
  ['run', 'daemon'].some((name) => someFact(dir, name, (fact) => fact.k === 'session.end'))

function orphanFacts(dir: string): FactBody[] {
  const open = new Map<string, string>()
  for (const fact of factsOf(dir, 'run')) {
    if (fact.k === 'http.request')
      open.set(
        `${fact.flow}/${fact.request}`,
        `request ${fact.method} to ${fact.host}, flow ${fact.flow}, request ${fact.request}`,
      )
    if (fact.k === 'http.response') open.delete(`${fact.flow}/${fact.request}`)
  }
  const listed = [...open.values()].slice(0, MAX_LISTED).map((what) => `no outcome recorded: ${what}`)
  if (open.size > MAX_LISTED) listed.push(`no outcome recorded: ${open.size - MAX_LISTED} more requests`)
  return listed.map((reason) => ({ k: 'gap', journal: 'run', reason }))
}

const lostWrites = (dir: string): FactBody[] =>
  unfinishedBursts(factsOf(dir, 'view')).map((reason) => ({ k: 'gap', journal: 'view', reason }))

function someFact(dir: string, name: string, test: (fact: Fact) => boolean): boolean {
  for (const fact of factsOf(dir, name)) if (test(fact)) return true
  return false
}

function* factsOf(dir: string, name: string): Generator<Fact> {
  try {
    for (const { fact } of readJournal(join(dir, `${name}.wal`))) yield fact
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error
  }
}
