import { resolve } from 'node:path'
import { native } from '../lib/native.ts'
import { RUNTIMES, type RuntimeName } from '../profile/plan.ts'
import { ownFront } from '../session/front.ts'
import { runSession } from '../session/run.ts'
import type { SessionRequest } from '../session/request.ts'
import { type Arguments, type Command, type Context, flag, type Option, text, usageError } from './command.ts'

export const SESSION_OPTIONS: Readonly<Record<string, Option>> = {
  profile: { type: 'string', short: 'p', value: 'P', help: 'profile name or file (default: writer)' },
  project: { type: 'string', value: 'DIR', help: 'what ${project} means (default: the current directory)' },
  workspace: {
    type: 'string',
    value: 'DIR',
    help: 'what ${workspace} means (default: one per project in ~/ambit)',
  },
  runtime: { type: 'string', value: 'R', help: `at least this isolation: ${RUNTIMES.join(', ')}` },
}

export const command: Command = {
  name: 'run',
  usage:
    'run [--profile P] [--project DIR] [--workspace DIR] [--runtime R] [--yes] [--summary FILE] [--observe]\n                 [--quiet] -- CMD…',
  summary: 'run an agent inside its ambit',
  details: `
Shows the grant sheet and runs CMD confined: it sees only the files of its profile, reaches only the hosts of its
profile, holds no credential, and every action is recorded in the signed log. At a terminal it asks once per grant, and
again when the agent or editor configuration that the project brings is not what you accepted. Changes under review wait
for: ambit review ID. What was refused, and what would allow it: ambit why ID.

inside:
  AMBIT_WORKSPACE names the workspace: the place to clone, install and build. Commands that no session can give (sudo,
  docker, apt-get, systemctl, …) say so and end with 126.

exit status:
  the command's own; 128+n when signal n ended it; 125 Ambit failed or stopped it; 126 refused; 127 not found.
  The summary's "outcome" is authoritative.

examples:
  ambit run -- claude
  ambit run --profile reader --project ~/work/ledger -- codex exec "summarise the ledgers"
  ambit run --observe --yes -- npm install     # refuses the same, and drafts the profile that it would have needed
`,
  options: {
    ...SESSION_OPTIONS,
    yes: { type: 'boolean', short: 'y', help: 'accept the grant sheet (never an approval)' },
    summary: { type: 'string', value: 'FILE', help: 'write the summary as JSON' },
    observe: { type: 'boolean', help: 'at the end, draft the profile that the run would have needed' },
    quiet: { type: 'boolean', short: 'q', help: 'no sheet and no summary on the terminal (needs --yes)' },
  },
  run: async (args, context) => {
    const request = sessionRequest(command, args, context)
    // It holds the session's CA key and the user's credentials: no core file, and nothing that it starts gains rights.
    native().noNewPrivileges()
    return runSession(request, context.front ?? ownFront(context))
  },
}

/** `--runtime`, null without one. */
export function runtimeOption(own: Command, args: Arguments): RuntimeName | null {
  const name = text(args, 'runtime')
  const runtime = RUNTIMES.find((runtime) => runtime === name) ?? null
  if (name !== undefined && !runtime) throw usageError(own, `--runtime is one of ${RUNTIMES.join(', ')}`)
  return runtime
}

/** The session that `args` ask for. Shared with `ambit explain`. */
export function sessionRequest(own: Command, args: Arguments, context: Context): SessionRequest {
  const argv = args.rest ?? args.words
  if (args.rest !== null && args.words.length > 0) throw usageError(own, 'put the command after --')
  const workspace = text(args, 'workspace')
  return {
    argv,
    profile: text(args, 'profile') ?? 'writer',
    project: resolve(context.cwd, text(args, 'project') ?? '.'),
    workspace: workspace === undefined ? null : resolve(context.cwd, workspace),
    runtime: runtimeOption(own, args),
    accepted: flag(args, 'yes'),
    summaryFile: text(args, 'summary') ?? null,
    quiet: flag(args, 'quiet'),
    observe: flag(args, 'observe'),
    cwd: context.cwd,
    env: context.env,
    paths: context.paths,
  }
}
