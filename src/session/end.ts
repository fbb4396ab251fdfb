/** Step 6: drain, record, sign, tell. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { DaemonClient } from '../daemon/client.ts'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { MEMORY_REMEDY, OUT_OF_MEMORY } from '../lib/oom.ts'
import type { Exit } from '../runtime/runtime.ts'
import type { Change } from '../view/review.ts'
import { factsOf } from './facts.ts'
import { type Registered, removeRunDirs } from './register.ts'
import { pendingChanges } from './review.ts'
import { ActivityFold, type SessionActivity } from './summary.ts'
import { type Ending, howViewEnded } from './supervise.ts'
import type { Wired } from './wire.ts'

interface Outcome {
  readonly outcome: 'ended' | 'failed' | 'killed' | 'timeout'
  /** Exit status of `ambit run`. */
  readonly exit: number
  readonly reason: string | null
}

export interface Summary extends Outcome, SessionActivity {
  readonly version: 1
  readonly session: string
  readonly profile: string
  readonly runtime: string
  readonly agent: string
  readonly project: string
  readonly workspace: string
  readonly startedAt: string
  readonly endedAt: string
  /** Changes that wait for `ambit review`. */
  readonly pending: readonly Change[]
  readonly log: { readonly dir: string; readonly size: number } | null
}

/** Ends a session that ran. Everything recorded is signed in the log when this resolves. */
export async function endSession(session: Registered, wired: Wired, ending: Ending): Promise<Summary> {
  const [view] = await Promise.all([wired.view.stop(), wired.gate.close(2000)])
  wired.labels.close()
  // The command may end by its lost files before anybody knows that they are lost.
  const stopped = ending.stopped ?? (view.code === 0 ? null : howViewEnded(view))
  const outcome = outcomeOf({ ...ending, stopped })
  // Nobody writes the upper layers, the journals and the private directory any more: seen to while ambitd signs.
  let rest: ReturnType<typeof tidy> | undefined
  const { log, failure } = await closeRecord(session, ending.daemon, outcome, () => (rest = tidy(session)))
  wired.barrier.close()
  const { activity, pending } = rest ?? tidy(session)
  await wired.world.gone
  const told = failure !== null && outcome.outcome === 'ended' ? unrecorded(failure) : outcome
  return summaryOf(session, { ...told, ...activity }, log, await pending)
}

/** What the command did stands in no log that can be verified: its status must not read as if it did. */
const unrecorded = (failure: AmbitError): Outcome => ({
  outcome: 'failed',
  exit: 125,
  reason: failure.message,
})

function tidy(session: Registered): { activity: SessionActivity; pending: Promise<readonly Change[]> } {
  const pending = pendingChanges(session.request.paths, session.id)
  pending.catch(() => undefined)
  removeRunDirs(session)
  return { activity: activityOf(session.request.paths, session.id), pending }
}

/** Ends a session that never ran its command; the failure is recorded and stays the caller's to report. */
export async function abandonSession(session: Registered, error: unknown): Promise<void> {
  const exit = error instanceof AmbitError ? error.exitCode : 125
  const daemon = await session.recorded.catch(() => null)
  try {
    session.journal.append({
      k: 'session.end',
      outcome: exit === 126 ? 'refused' : 'failed',
      exit,
      reason: messageOf(error),
    })
    await session.journal.sync()
    await daemon?.call('session.close', { id: session.id })
  } finally {
    daemon?.close()
    session.journal.close()
    removeRunDirs(session)
  }
}

interface Closed {
  readonly log: Summary['log']
  /** Why the record could not be written or signed; null also where ambitd just went away. */
  readonly failure: AmbitError | null
}

/** `meanwhile` runs while ambitd works. */
async function closeRecord(
  session: Registered,
  daemon: DaemonClient,
  outcome: Outcome,
  meanwhile: () => void,
): Promise<Closed> {
  try {
    session.journal.append({
      k: 'session.end',
      outcome: outcome.outcome,
      exit: outcome.exit,
      reason: outcome.reason,
    })
    await session.journal.sync()
    session.journal.close()
    const signing = daemon.call('session.close', { id: session.id })
    meanwhile()
    const answer = await signing
    const log = { dir: join(session.request.paths.state, 'log'), size: Number(answer.size) }
    return { log, failure: null }
  } catch (error) {
    // Without ambitd nothing is lost: the journals are durable, and the next one sequences and signs them.
    const gone = error instanceof AmbitError && error.code === 'ERR_DAEMON_UNREACHABLE'
    return { log: null, failure: gone ? null : asFailure(error) }
  } finally {
    daemon.close()
  }
}

const asFailure = (error: unknown): AmbitError =>
  error instanceof AmbitError
    ? error
    : new AmbitError('ERR_INTERNAL', 'the record of the session was not closed', messageOf(error))

/** The words and the exit status for how the command ended; who stopped the session comes before how it died. */
function outcomeOf({ exit, stopped, memoryRanOut }: Omit<Ending, 'daemon'>): Outcome {
  const why = memoryRanOut ? `; the kernel was ending processes ${OUT_OF_MEMORY}: ${MEMORY_REMEDY}` : ''
  if (stopped !== null) return { outcome: 'killed', exit: 125, reason: stopped + why }
  if (memoryRanOut && statusOf(exit) === OOM_STATUS)
    return {
      outcome: 'killed',
      exit: OOM_STATUS,
      reason: `the kernel ended it ${OUT_OF_MEMORY}: ${MEMORY_REMEDY}`,
    }
  switch (exit.kind) {
    case 'code':
      return { outcome: 'ended', exit: exit.code, reason: null }
    case 'signal':
      return { outcome: 'ended', exit: 128 + exit.signal, reason: `ended by signal ${exit.signal}` }
    case 'timeout':
      return { outcome: 'timeout', exit: 125, reason: 'the wall clock of the profile ran out' }
    case 'over-limit':
      return { outcome: 'killed', exit: 125, reason: `over the limit of the profile: ${exit.limit}` }
    case 'failed':
      return { outcome: 'failed', exit: 125, reason: describeFailure(exit) + why }
  }
}

/** SIGKILL, of the command or, in a shell's way to say it, of what the command waited for. */
const OOM_STATUS = 137

const statusOf = (exit: Exit): number | null =>
  exit.kind === 'signal' ? 128 + exit.signal : exit.kind === 'code' ? exit.code : null

const describeFailure = (exit: Extract<Exit, { kind: 'failed' }>): string =>
  `${exit.what}: ${exit.why}${exit.remedy ? `; ${exit.remedy}` : ''}`

function summaryOf(
  session: Registered,
  done: Outcome & SessionActivity,
  log: Summary['log'],
  pending: readonly Change[],
): Summary {
  const summary: Summary = {
    version: 1,
    session: session.id,
    profile: session.plan.profile.name,
    runtime: session.runtime,
    agent: session.agent.name,
    project: session.request.project,
    workspace: session.workspace,
    startedAt: new Date(session.startedAt).toISOString(),
    endedAt: new Date().toISOString(),
    ...done,
    pending,
    log,
  }
  writeFileSync(join(session.dir, 'summary.json'), JSON.stringify(summary), { mode: 0o600 })
  return summary
}

/** Folds the journals of a session, ended or not. */
function activityOf(paths: Registered['request']['paths'], id: string): SessionActivity {
  const fold = new ActivityFold()
  for (const fact of factsOf(paths, id)) fold.add(fact)
  return fold.result()
}
