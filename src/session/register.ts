/** Step 3: the session gets a name, a directory, its journal and the daemon's ear, before anything is built. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Journal } from '../audit/journal.ts'
import { connectDaemon, type DaemonClient } from '../daemon/client.ts'
import { ownBirth } from '../daemon/records.ts'
import { journalDir, sessionDir } from '../lib/paths.ts'
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
  readonly daemon: DaemonClient
  readonly startedAt: number
}

/** Opens the record of the session. `session.start` is durable when this resolves. */
export async function registerSession(resolved: Resolved, acceptance: Acceptance): Promise<Registered> {
  const { request, plan, agent } = resolved
  const id = newSessionId()
  const dir = sessionDir(request.paths, id)
  const run = join(request.paths.run, 'sessions', id)
  mkdirSync(journalDir(request.paths, id), { recursive: true, mode: 0o700 })
  mkdirSync(run, { recursive: true, mode: 0o700 })
  const startedAt = Date.now()
  let journal: Journal | null = null
  // Asked for now, used when the start is durable.
  const connecting = connectDaemon(request.paths)
  connecting.catch(() => undefined)
  try {
    const planText = JSON.stringify(plan)
    writeFileSync(join(dir, 'plan.json'), planText, { mode: 0o600 })
    const description = { ...descriptionOf(resolved, id, startedAt), ...ownBirth() }
    writeFileSync(join(dir, 'session.json'), JSON.stringify(description), { mode: 0o600 })
    journal = Journal.open(join(journalDir(request.paths, id), 'run.wal'))
    journal.append({
      k: 'session.start',
      user: resolved.user.name,
      uid: resolved.user.uid,
      profile: plan.profile.name,
      planDigest: plan.profile.digest,
      sheetDigest: acceptance.digest,
      runtime: resolved.runtime,
      argv: [...request.argv],
      agent: { name: agent.name, version: agent.version, digest: agent.digest },
      cwd: request.cwd,
    })
    recordConfiguration(journal, acceptance)
    await journal.sync()
    const daemon = await connecting
    await daemon.call('session.open', openArguments(resolved, id, dir, startedAt))
    return { ...resolved, id, dir, run, journal, daemon, startedAt }
  } catch (error) {
    void connecting.then(
      (daemon) => daemon.close(),
      () => undefined,
    )
    journal?.close()
    rmSync(run, { recursive: true, force: true })
    throw error
  }
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
