/** The last refusals of a session, from its journals. */
import { join } from 'node:path'
import type { Fact } from '../audit/fact.ts'
import { JOURNALS } from '../audit/followed-session.ts'
import { readJournal } from '../audit/journal.ts'
import { errnoOf } from '../lib/errors.ts'
import { type Paths, journalDir } from '../lib/paths.ts'
import type { Refusal } from './messages.ts'

const MAX_LISTED = 50
const MAX_TEXT = 1000

/** Newest first. */
export function lastRefusals(paths: Paths, id: string): Refusal[] {
  const found: Refusal[] = []
  for (const name of JOURNALS) {
    const own: Refusal[] = []
    try {
      for (const { fact } of readJournal(join(journalDir(paths, id), `${name}.wal`))) {
        const refusal = refusalOf(fact)
        if (refusal) own.push(refusal)
        if (own.length > 2 * MAX_LISTED) own.splice(0, MAX_LISTED)
      }
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error
    }
    found.push(...own)
  }
  return found.sort((a, b) => b.t - a.t).slice(0, MAX_LISTED)
}

function refusalOf(fact: Fact): Refusal | null {
  const refusal = (target: string, reason: string, rule: string | null): Refusal => ({
    t: fact.t,
    kind: fact.k,
    target: target.slice(0, MAX_TEXT).toWellFormed(),
    reason: reason.slice(0, MAX_TEXT).toWellFormed(),
    rule,
  })
  switch (fact.k) {
    case 'file.denied':
      return refusal(`${fact.op} ${fact.path}`, fact.reason, fact.rule)
    case 'process.denied':
      return refusal(fact.path, fact.reason, null)
    case 'net.denied':
      return refusal(`${fact.host || fact.address}:${fact.port}`, fact.reason, fact.rule)
    case 'http.denied':
      return refusal(`${fact.method} ${fact.host}${fact.path}`, fact.reason, fact.rule)
    case 'dns.query':
      return fact.answer === null && fact.reason !== null ? refusal(fact.name, fact.reason, fact.rule) : null
    case 'credential.foreign':
      return refusal(`${fact.header} to ${fact.host}`, 'credential.foreign', null)
    case 'decision':
      return fact.effect === 'allow' ? null : refusal(fact.target, fact.reason, fact.rule)
    default:
      return null
  }
}
