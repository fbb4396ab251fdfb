/** What the daemon writes down about a session, in the session's directory, so that its successor knows it. */
import * as fs from 'node:fs'
import { join } from 'node:path'
import * as z from 'zod'
import { readJournal } from '../audit/journal.ts'
import { logFailed, replaceFile } from '../audit/log-files.ts'
import { errnoOf } from '../lib/errors.ts'
import { type Paths, journalDir, sessionDir, sessionsDir } from '../lib/paths.ts'
import { REVIEW, SESSION_STATES, type SessionInfo, sessionId } from './messages.ts'

const NAME = 'registration.json'

const RECORD = z.strictObject({
  v: z.literal(1),
  id: sessionId,
  state: z.enum(SESSION_STATES),
  pid: z.number().int(),
  /** Start of that process in clock ticks after boot, and the boot: a pid alone may be another process by now. */
  born: z.string(),
  profile: z.string(),
  runtime: z.string(),
  agent: z.string(),
  project: z.string().nullable(),
  startedAt: z.number(),
  endedAt: z.number().nullable(),
  counters: z.record(z.string(), z.number()),
})
export type SessionRecord = Readonly<z.infer<typeof RECORD>>

/** Writes the record; durable when it resolves. */
export async function saveRecord(paths: Paths, record: SessionRecord): Promise<void> {
  try {
    await replaceFile(join(sessionDir(paths, record.id), NAME), Buffer.from(JSON.stringify(record)))
  } catch (error) {
    throw logFailed(error)
  }
}

/** The record of session `id`; null when there is none that this version understands. */
export function loadRecord(paths: Paths, id: string): SessionRecord | null {
  try {
    const result = RECORD.safeParse(JSON.parse(fs.readFileSync(join(sessionDir(paths, id), NAME), 'utf8')))
    return result.success && result.data.id === id ? result.data : null
  } catch {
    return null
  }
}

/** The session that began last, or null. Ids sort by the second; within one, their records say more. */
export function lastSession(paths: Paths): string | null {
  const isReview = (id: string): boolean => {
    const record = loadRecord(paths, id)
    return record?.agent === REVIEW && record.runtime === 'none' && record.state !== 'refused'
  }
  const all = listSessions(paths)
  const second = all.findLast((id) => !isReview(id))?.split('-')[0]
  const begun = (id: string): number => loadRecord(paths, id)?.startedAt ?? 0
  return (
    all
      .filter((id) => id.split('-')[0] === second && !isReview(id))
      .toSorted((a, b) => begun(a) - begun(b))
      .at(-1) ?? null
  )
}

/** Ids of the session directories on disk, oldest first (ids sort by time). */
export function listSessions(paths: Paths): string[] {
  try {
    const entries = fs.readdirSync(sessionsDir(paths), { withFileTypes: true })
    return entries
      .flatMap((entry) =>
        entry.isDirectory() && sessionId.safeParse(entry.name).success ? [entry.name] : [],
      )
      .sort()
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    throw error
  }
}

/** How long a session that does not say which process it is may take from its first record to its call. */
const CALL_MS = 60_000
const BIRTH = z.object({ pid: z.number().int().min(1), born: z.string() })

/** This process, as `session.json` names it, so that the daemon can tell a dead starter from a slow one. */
export const ownBirth = (): z.infer<typeof BIRTH> => ({ pid: process.pid, born: birthOf(process.pid) ?? '' })

/**
 * A record for a session that has a journal but never called, made from what the journal says; null while it may
 * still be about to call.
 */
export function abandonedRecord(paths: Paths, id: string): SessionRecord | null {
  const path = join(journalDir(paths, id), 'run.wal')
  const stat = fs.lstatSync(path, { throwIfNoEntry: false })
  const birth = toldBirth(paths, id)
  if (!stat || mayCall(birth, stat.mtimeMs)) return null
  const fact = readJournal(path).next().value
  const start = fact && 'fact' in fact && fact.fact.k === 'session.start' ? fact.fact : null
  const facts = {
    profile: start?.profile ?? '',
    runtime: start?.runtime ?? '',
    agent: start?.agent.name ?? '',
    project: null,
  }
  const base = { v: 1, id, state: 'running', counters: {}, ...(birth ?? { pid: 0, born: '' }) } as const
  return { ...base, ...facts, startedAt: start?.t ?? stat.mtimeMs, endedAt: null }
}

/** The process that began session `id`, as it said before its first call; null where it did not. */
function toldBirth(paths: Paths, id: string): z.infer<typeof BIRTH> | null {
  try {
    return BIRTH.parse(JSON.parse(fs.readFileSync(join(sessionDir(paths, id), 'session.json'), 'utf8')))
  } catch {
    return null
  }
}

/** By its process; a directory without one (a review, a refusal) is judged by age, in both directions of a clock jump. */
const mayCall = (birth: z.infer<typeof BIRTH> | null, writtenMs: number): boolean =>
  birth ? birthOf(birth.pid) === birth.born : Math.abs(Date.now() - writtenMs) < CALL_MS

/** What callers see of a record. */
export function infoOf(record: SessionRecord): SessionInfo {
  const { v: _, born: _b, ...info } = record
  return info
}

/** True for states in which the session's process may still live. */
export const isLive = (state: SessionRecord['state']): boolean =>
  ['running', 'frozen', 'detached'].includes(state)

/**
 * Names the process `pid` beyond reuse of its number; null when it does not live. A zombie does not: it acts no more.
 */
export function birthOf(pid: number): string | null {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8')
    // Behind the last `)`: the name in front may hold anything.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (fields[0] === 'Z' || fields[0] === 'X') return null
    return `${bootId()}:${fields[19]}`
  } catch {
    return null
  }
}

const bootId = (): string => fs.readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
