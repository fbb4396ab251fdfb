import { printableJson } from '../lib/printable.ts'
import { resolveSession } from '../session/resolve.ts'
import { sheetOf } from '../session/show.ts'
import { type Command, flag } from './command.ts'
import { SESSION_OPTIONS, sessionRequest } from './run.ts'

export const command: Command = {
  name: 'explain',
  usage: 'explain [--profile P] [--project DIR] [--workspace DIR] [--runtime R] [--json] [-- CMD…]',
  summary: 'print the grant sheet, without running',
  details: `
Says in plain words what a session would be allowed, the risky lines first. Nothing is started.
Without a command it explains the profile for /bin/sh.

exit status: 0 when profile and policy admit such a session, 126 when it is refused, 127 when there is no such command,
125 when the profile cannot be read. Whether this machine can run it says: ambit doctor.

example:
  ambit explain --profile reader --project ~/work/ledger -- codex
`,
  options: {
    ...SESSION_OPTIONS,
    json: { type: 'boolean', help: 'sheet, digest of the agent and compiled plan as JSON' },
  },
  run: async (args, context) => {
    const request = sessionRequest(command, args, context)
    const resolved = resolveSession({
      ...request,
      argv: request.argv.length > 0 ? request.argv : ['/bin/sh'],
    })
    const sheet = sheetOf(resolved, context.color && Boolean(process.stdout.isTTY))
    if (!flag(args, 'json')) context.out(sheet.text)
    else {
      const { plan, runtime, raised } = resolved
      const { name, version, digest, executable } = resolved.agent
      const agent = { name, version, digest, executable }
      const { digest: grant, lines } = sheet
      context.out(
        printableJson(JSON.stringify({ digest: grant, runtime, raised, agent, lines, plan }, null, 2)),
      )
    }
    return 0
  },
}
