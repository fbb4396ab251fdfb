import { resolve } from 'node:path'
import type { Front } from './front.ts'
import { observeSession } from './observe.ts'
import { printStop, printSummary } from './print.ts'
import { isRefusal, recordRefusal } from './refuse.ts'
import { registerSession } from './register.ts'
import type { SessionRequest } from './request.ts'
import { type Resolved, resolveSession } from './resolve.ts'
import { type Acceptance, acceptSheet } from './show.ts'
import { abandonSession, endSession } from './end.ts'
import { openSummaryFile } from './summary-file.ts'
import { superviseSession } from './supervise.ts'
import { wireSession } from './wire.ts'

/**
 * The life of a session: resolve, show, register, wire, run, end. @returns the exit status of `ambit run`.
 * @throws AmbitError when the session does not start; then nothing of it is left.
 */
export async function runSession(request: SessionRequest, front: Front): Promise<number> {
  const { resolved, acceptance } = await admit(request, front)
  const file =
    request.summaryFile === null ? null : openSummaryFile(resolve(request.cwd, request.summaryFile))
  const session = registerSession(resolved, acceptance)
  const wired = await wireSession(session, front).catch(async (error: unknown) => {
    await abandonSession(session, error)
    throw error
  })
  const ending = await superviseSession(session, wired)
  const summary = await endSession(session, wired, ending)
  if (request.quiet) printStop(summary, front)
  else printSummary(summary, front)
  if (request.observe) observeSession(session, front)
  file?.write(`${JSON.stringify(summary, null, 2)}\n`)
  return summary.exit
}

/** Resolve and show: everything that may say no before anything is built. A no is recorded. */
async function admit(
  request: SessionRequest,
  front: Front,
): Promise<{ resolved: Resolved; acceptance: Acceptance }> {
  try {
    const resolved = resolveSession(request)
    front.accept(request, resolved.plan)
    return { resolved, acceptance: await acceptSheet(resolved, front) }
  } catch (error) {
    if (isRefusal(error)) await recordRefusal(request, error)
    throw error
  }
}
