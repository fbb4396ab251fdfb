import { resolve } from 'node:path'
import type { Front } from './front.ts'
import { observeSession } from './observe.ts'
import { printStop, printSummary } from './print.ts'
import { isRefusal, recordRefusal } from './refuse.ts'
import { type Registered, registerSession } from './register.ts'
import type { SessionRequest } from './request.ts'
import { type Resolved, resolveSession } from './resolve.ts'
import { acceptSheet } from './show.ts'
import { abandonSession, endSession, type Summary } from './end.ts'
import { openSummaryFile, type SummaryFile } from './summary-file.ts'
import { superviseSession } from './supervise.ts'
import { type Wired, wireSession } from './wire.ts'

/**
 * The life of a session, one step a line as in docs/architecture.md. @returns the exit status of `ambit run`.
 * @throws AmbitError when the session does not start; then nothing of it is left.
 */
export async function runSession(request: SessionRequest, front: Front): Promise<number> {
  const resolved = await orRefuse(request, () => resolveFor(front, request))
  const acceptance = await orRefuse(request, () => acceptSheet(resolved, front))
  const summaryFile = openSummary(request)
  const session = registerSession(resolved, acceptance)
  const wired = await wireOrAbandon(session, front)
  const ending = await superviseSession(session, wired)
  const summary = await endSession(session, wired, ending)
  tell(session, summary, front)
  summaryFile?.write(`${JSON.stringify(summary, null, 2)}\n`)
  return summary.exit
}

function resolveFor(front: Front, request: SessionRequest): Resolved {
  const resolved = resolveSession(request)
  front.accept(request, resolved.plan)
  return resolved
}

/** A step that may say no, before anything is built. A no is recorded. */
async function orRefuse<T>(request: SessionRequest, step: () => T | Promise<T>): Promise<T> {
  try {
    return await step()
  } catch (error) {
    if (isRefusal(error)) await recordRefusal(request, error)
    throw error
  }
}

/** Held from before the session, so that nothing in it decides where the summary is written. */
const openSummary = ({ cwd, summaryFile }: SessionRequest): SummaryFile | null =>
  summaryFile === null ? null : openSummaryFile(resolve(cwd, summaryFile))

/** What is wired halfway is taken down again, and its end is on record. */
async function wireOrAbandon(session: Registered, front: Front): Promise<Wired> {
  try {
    return await wireSession(session, front)
  } catch (error) {
    await abandonSession(session, error)
    throw error
  }
}

function tell(session: Registered, summary: Summary, front: Front): void {
  if (session.request.quiet) printStop(summary, front)
  else printSummary(summary, front)
  if (session.request.observe) observeSession(session, front)
}
