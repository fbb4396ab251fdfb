import { resolve } from 'node:path'
import { observeSession } from './observe.ts'
import { printSummary } from './print.ts'
import { isRefusal, recordRefusal } from './refuse.ts'
import { registerSession } from './register.ts'
import type { SessionRequest } from './request.ts'
import { type Resolved, resolveSession } from './resolve.ts'
import { acceptSheet, type Screen } from './show.ts'
import { abandonSession, endSession } from './end.ts'
import { openSummaryFile } from './summary-file.ts'
import { superviseSession } from './supervise.ts'
import { wireSession } from './wire.ts'

/**
 * The life of a session: resolve, show, register, wire, run, end. @returns the exit status of `ambit run`.
 * @throws AmbitError when the session does not start; then nothing of it is left.
 */
export async function runSession(request: SessionRequest, screen: Screen): Promise<number> {
  const { resolved, sheetDigest } = await admit(request, screen)
  const file =
    request.summaryFile === null ? null : openSummaryFile(resolve(request.cwd, request.summaryFile))
  const session = await registerSession(resolved, sheetDigest)
  const wired = await wireSession(session).catch(async (error: unknown) => {
    await abandonSession(session, error)
    throw error
  })
  const ending = await superviseSession(session, wired)
  const summary = await endSession(session, wired, ending)
  if (!request.quiet) printSummary(summary, screen)
  if (request.observe) observeSession(session, screen)
  file?.write(`${JSON.stringify(summary, null, 2)}\n`)
  return summary.exit
}

/** Resolve and show: everything that may say no before anything is built. A no is recorded. */
async function admit(
  request: SessionRequest,
  screen: Screen,
): Promise<{ resolved: Resolved; sheetDigest: string }> {
  try {
    const resolved = resolveSession(request)
    return { resolved, sheetDigest: await acceptSheet(resolved, screen) }
  } catch (error) {
    if (isRefusal(error)) await recordRefusal(request, error)
    throw error
  }
}
