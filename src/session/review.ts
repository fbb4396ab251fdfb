/** What a session left for review, and the record of what a person did with it. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Journal } from '../audit/journal.ts'
import { connectDaemon, REVIEW } from '../daemon/client.ts'
import { AmbitError, errnoOf } from '../lib/errors.ts'
import { type Paths, sessionDir } from '../lib/paths.ts'
import {
  type Applied,
  applyChanges,
  type Change,
  dropChanges,
  listChanges,
  type ReviewLayer,
  reviewLayers,
} from '../view/review.ts'
import type { ViewSpec } from '../view/view-spec.ts'
import type { SessionId } from './id.ts'
import { withRecord } from './record.ts'

/** The view's spec, kept with the session: it says which layers there are and whose files they become. */
export const VIEW_SPEC = 'view.json'

/** @throws AmbitError ERR_SESSION_NOT_FOUND */
export function layersOf(paths: Paths, id: SessionId): ReviewLayer[] {
  try {
    return reviewLayers(JSON.parse(readFileSync(join(sessionDir(paths, id), VIEW_SPEC), 'utf8')) as ViewSpec)
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error
    throw new AmbitError('ERR_SESSION_NOT_FOUND', id, 'there is no such session', 'see ambit sessions --all')
  }
}

/** Changes of session `id` that wait. */
export const pendingChanges = async (paths: Paths, id: SessionId): Promise<Change[]> =>
  listChanges(layersOf(paths, id))

export const pathOf = (change: Pick<Change, 'root' | 'path'>): string => join(change.root, change.path)

/** Applies `changes`; what will be applied is durable in the session's journal before the host's files change. */
export async function applyReviewed(
  paths: Paths,
  id: SessionId,
  changes: readonly Change[],
): Promise<Applied[]> {
  return recorded(paths, id, async (journal) => {
    for (const change of changes) {
      if (!change.conflict)
        journal.append({ k: 'review.applied', path: pathOf(change), sha256: change.sha256 })
    }
    await journal.sync()
    const results = await applyChanges(layersOf(paths, id), changes)
    for (const result of results.filter(({ state }) => state !== 'applied')) {
      const reason = `review.${result.state}`
      journal.append({
        k: 'decision',
        action: 'review.apply',
        effect: 'deny',
        reason,
        rule: null,
        target: pathOf(result),
      })
    }
    return results
  })
}

/** Drops `changes` for good; that they are dropped is durable in the record first. */
export async function dropReviewed(paths: Paths, id: SessionId, changes: readonly Change[]): Promise<void> {
  await recorded(paths, id, async (journal) => {
    for (const change of changes) journal.append({ k: 'review.dropped', path: pathOf(change) })
    await journal.sync()
    await dropChanges(layersOf(paths, id), changes)
  })
}

/** A review is a record of its own: the session's is closed. Its facts name the session they belong to. */
async function recorded<T>(paths: Paths, id: SessionId, work: (journal: Journal) => Promise<T>): Promise<T> {
  await requireEnded(paths, id)
  const told = JSON.parse(readFileSync(join(sessionDir(paths, id), 'session.json'), 'utf8')) as Told
  return withRecord(
    paths,
    { profile: told.profile, agent: REVIEW, project: told.project },
    async (journal) => {
      const review = {
        k: 'decision',
        action: 'review',
        effect: 'allow',
        reason: 'review.by-user',
        rule: null,
      } as const
      journal.append({ ...review, target: id })
      try {
        return await work(journal)
      } finally {
        journal.append({ k: 'session.end', outcome: 'ended', exit: 0, reason: null })
      }
    },
  )
}

interface Told {
  readonly profile: string
  readonly project: string
}

async function requireEnded(paths: Paths, id: SessionId): Promise<void> {
  const daemon = await connectDaemon(paths)
  try {
    const { sessions } = await daemon.call('sessions', { all: false })
    if (!sessions.some((session) => session.id === id)) return
    throw new AmbitError(
      'ERR_REVIEW_CONFLICT',
      id,
      'the session still runs',
      'wait for its end, or ambit kill it',
    )
  } finally {
    daemon.close()
  }
}
