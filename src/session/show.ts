/** Step 2: the grant sheet, and a person's yes to it. */
import { createHash } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { AmbitError } from '../lib/errors.ts'
import type { Paths } from '../lib/paths.ts'
import { type Sheet, renderSheet } from '../profile/sheet.ts'
import { hiddenButTracked } from '../profile/tracked.ts'
import { runtimes } from '../runtime/runtimes.ts'
import { type Configuration, configurationOf, rememberConfiguration } from './configuration.ts'
import type { Front } from './front.ts'
import type { Resolved } from './resolve.ts'

/** The grant sheet of a resolved session, with what git and the project bring to it. */
export function sheetOf(
  resolved: Resolved,
  color: boolean,
  configuration = configurationFor(resolved),
): Sheet {
  return renderSheet(resolved.plan, {
    agent: resolved.agent,
    argv: resolved.request.argv,
    runtime: { name: resolved.runtime, words: runtimes[resolved.runtime].words },
    raised: resolved.raised,
    tracked: hiddenButTracked(resolved.plan),
    configuration,
    color,
  })
}

const configurationFor = ({ plan, request }: Resolved): Configuration =>
  configurationOf(plan, request.cwd, request.project, request.paths)

export interface Acceptance {
  /** The sheet's. */
  readonly digest: string
  /** `remembered`: by an earlier yes at a terminal to the very same sheet and configuration. */
  readonly by: 'command-line' | 'remembered' | 'terminal'
  readonly configuration: Configuration
}

/**
 * Shows the sheet and gets it accepted: by `--yes` where policy lets that count, by an earlier yes to the very same
 * sheet, or at the terminal. Never reads an answer from a pipe.
 *
 * @throws AmbitError ERR_SHEET_REFUSED
 */
export async function acceptSheet(resolved: Resolved, front: Front): Promise<Acceptance> {
  const configuration = configurationFor(resolved)
  const sheet = sheetOf(resolved, front.color, configuration)
  const accepted = (by: Acceptance['by']): Acceptance => ({ digest: sheet.digest, by, configuration })
  const { request, plan, admission } = resolved
  const each = plan.approvals.includes('start')
  if (request.accepted) {
    const whose = each ? 'the profile wants a person to approve each start, and' : 'policy'
    if (each || admission.acceptance === 'terminal') {
      throw refused(`${whose} does not let --yes accept this grant`, 'run it at a terminal without --yes')
    }
    if (!request.quiet) front.err(sheet.text)
    return accepted('command-line')
  }
  const known = acceptanceFile(request.paths, sheet.digest)
  if (!each && admission.acceptance !== 'terminal' && existsSync(known)) {
    front.err(
      `ambit: profile ${resolved.plan.profile.name}: the same grant as accepted before (ambit explain shows it)`,
    )
    return accepted('remembered')
  }
  if (!front.ask) {
    front.err(sheet.text)
    throw refused(
      'nobody is at a terminal to accept the grant sheet',
      'add --yes to accept it on the command line',
    )
  }
  if (!(await front.ask(sheet.text, 'Run it within these bounds? [y/N] ')))
    throw refused('the grant sheet was not accepted', 'nothing ran')
  makeDir(join(request.paths.state, 'accepted'))
  writeFileSync(known, `${new Date().toISOString()}\n`, { mode: 0o600 })
  rememberConfiguration(configuration, request.project, request.paths)
  return accepted('terminal')
}

const refused = (why: string, remedy: string): AmbitError =>
  new AmbitError('ERR_SHEET_REFUSED', 'grant sheet', why, remedy)

const acceptanceFile = (paths: Paths, digest: string): string =>
  join(paths.state, 'accepted', createHash('sha256').update(digest).digest('hex').slice(0, 32))
