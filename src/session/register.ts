/** Step 3: the session gets a name, a directory, its journal and the daemon's ear, before anything is built. */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { type FactBody, MOST_WORDS } from '../audit/fact.ts'
import { Journal, layJournal } from '../audit/journal.ts'
import { connectDaemon, type DaemonClient, ownBirth } from '../daemon/client.ts'
import { removeMemoryDir } from '../lib/memory-dir.ts'
import { native } from '../lib/native.ts'
import { journalDir, sessionDir } from '../lib/paths.ts'
import { claimStateDir } from '../lib/state-dir.ts'
import { newSessionId, type SessionId } from './id.ts'
import type { Resolved } from './resolve.ts'
import type { Acceptance } from './show.ts'

export interface Registered extends Resolved {
  readonly id: SessionId
  /** Durable: plan, journals, upper layers. */
  readonly dir: string
  /** Private and short-lived: specs. Removed at the end. */
  readonly run: string
  readonly journal: Journal
  /**
   * The daemon that knows of the session, once its start is durable. Nothing of the agent's is served or run before.
   */
  readonly recorded: Promise<DaemonClient>
  readonly startedAt: number
}

/** Opens the record of the session and begins to make its start durable: `recorded` says when it is. */
export function registerSession(resolved: Resolved, acceptance: Acceptance): Registered {
  const { request, plan } = resolved
  const id = newSessionId()
  const dir = sessionDir(request.paths, id)
  const run = join(request.paths.run, 'sessions', id)
  const startedAt = Date.now()
  claimStateDir(request.paths.state)
  makeDir(journalDir(request.paths, id))
  makeDir(run)
  // Asked for now, used when the start is durable.
  const connecting = connectDaemon(request.paths)
  connecting.catch(() => undefined)
  try {
    const description = { ...descriptionOf(resolved, id, startedAt), ...ownBirth() }
    writeFileSync(join(dir, 'plan.json'), JSON.stringify(plan), { mode: 0o600 })
    writeFileSync(join(dir, 'session.json'), JSON.stringify(description), { mode: 0o600 })
    const journals = journalDir(request.paths, id)
    // All names are there before the first sync: view and launcher need none of their own.
    for (const name of ['view', 'launch']) layJournal(join(journals, `${name}.wal`))
    const journal = Journal.open(join(journals, 'run.wal'))
    journal.append(startOf(resolved, acceptance))
    recordIsolation(journal, resolved)
    recordConfiguration(journal, acceptance)
    const told = openArguments(resolved, id, dir, startedAt)
    const recorded = recordStart(journal, connecting, told)
    // Whoever waits for it hears of it; a session that fails before that is told of its own failure.
    recorded.catch(() => undefined)
    return { ...resolved, id, dir, run, journal, recorded, startedAt }
  } catch (error) {
    leave(connecting)
    removeRunDirs({ id, run })
    throw error
  }
}

/** Removes the session's private and short-lived directories. */
export function removeRunDirs({ id, run }: Pick<Registered, 'id' | 'run'>): void {
  // The run directory last: by it ambitd finds what is left of a session that died here.
  removeMemoryDir(id)
  rmSync(run, { recursive: true, force: true })
}

/** As many words as a record takes; the last one says how many there were. */
function recordable(argv: readonly string[]): string[] {
  if (argv.length <= MOST_WORDS) return [...argv]
  const kept = argv.slice(0, MOST_WORDS - 1)
  return [...kept, `…(${argv.length - kept.length} more)`]
}

function startOf({ request, plan, agent, user, runtime }: Resolved, { digest }: Acceptance): FactBody {
  return {
    k: 'session.start',
    user: user.name,
    uid: user.uid,
    profile: plan.profile.name,
    planDigest: plan.profile.digest,
    sheetDigest: digest,
    runtime,
    argv: native().redactWords(recordable(request.argv)),
    agent: { name: agent.name, version: agent.version, digest: agent.digest },
    cwd: request.cwd,
  }
}

async function recordStart(
  journal: Journal,
  connecting: Promise<DaemonClient>,
  description: Record<string, unknown>,
): Promise<DaemonClient> {
  try {
    // Side by side. A daemon that knows of a session whose start was lost ends it as any other that died.
    const told = connecting.then(async (daemon) => {
      await daemon.call('session.open', description)
      return daemon
    })
    const [durable, known] = await Promise.allSettled([journal.sync(), told])
    if (durable.status === 'rejected') throw durable.reason
    if (known.status === 'rejected') throw known.reason
    return known.value
  } catch (error) {
    leave(connecting)
    throw error
  }
}

function leave(connecting: Promise<DaemonClient>): void {
  void connecting.then(
    (daemon) => daemon.close(),
    () => undefined,
  )
}

/** Which rule made the isolation stronger than the profile asks for. */
function recordIsolation(journal: Journal, { runtime, raised }: Resolved): void {
  for (const reason of raised)
    journal.append({
      k: 'decision',
      action: 'session.isolate',
      effect: 'allow',
      reason,
      rule: null,
      target: runtime,
    })
}

/** Files of a changed configuration that go on record one by one. */
const MOST_RECORDED = 200

/** Which agent configuration this session begins with, and what of it was not accepted before. */
function recordConfiguration(journal: Journal, { by, configuration }: Acceptance): void {
  const { files, digest } = configuration
  if (files.length === 0) return
  const accept = { k: 'decision', action: 'configuration.accept', effect: 'allow', rule: null } as const
  journal.append({ ...accept, reason: by, target: `${files.length} files, sha256:${digest}` })
  for (const { path, sha256, state } of files.filter(({ state }) => state !== 'same').slice(0, MOST_RECORDED))
    journal.append({ ...accept, reason: `${by}: ${state}`, target: `${path} sha256:${sha256}` })
}

/** What `ambitd` is told; also after it was restarted in mid-session. */
export function openArguments(
  resolved: Resolved,
  id: SessionId,
  dir: string,
  startedAt: number,
): Record<string, unknown> {
  return { ...descriptionOf(resolved, id, startedAt), dir, pid: process.pid }
}

function descriptionOf(resolved: Resolved, id: SessionId, startedAt: number): Record<string, unknown> {
  return {
    id,
    profile: resolved.plan.profile.name,
    runtime: resolved.runtime,
    agent: resolved.agent.name,
    project: resolved.request.project,
    startedAt,
  }
}
