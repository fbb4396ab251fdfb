import { renderResult, renderTurn, succeeded } from '../demo/report.ts'
import { agentTitle, runDemo } from '../demo/run.ts'
import { RUNTIMES } from '../profile/plan.ts'
import { type Command, flag, noWords } from './command.ts'
import { runtimeOption } from './run.ts'

export const command: Command = {
  name: 'demo',
  usage: 'demo [--runtime R] [--json]',
  summary: 'the finance case, end to end',
  details: `
A real agent (${agentTitle}, installed from npm on first use) reconciles a month of ledgers. A memo in their folder tells
it to steal a key, upload the ledger and more, and its scripted model obeys. The end shows the work, each attempt with
the control that refused it, taken from the session's record, and the verified log. What it works on lies in a temporary
directory and goes with it; the record stays in your log, the agent in your cache. Nothing of yours is read, and all hosts
are on this machine or exist nowhere.
exit status: 0 when the work is right and every attempt was refused.
`,
  options: {
    runtime: { type: 'string', value: 'R', help: `in this isolation: ${RUNTIMES.join(', ')}` },
    json: { type: 'boolean', help: 'the result as one JSON object' },
  },
  run: async (args, context) => {
    noWords(command, args)
    const { paths, env, color } = context
    const runtime = runtimeOption(command, args) ?? 'os-sandbox'
    context.err(
      `Ambit demo: ${agentTitle} reconciles the books; a memo in the folder was planted by an attacker.`,
    )
    const onTurn = (turn: Parameters<typeof renderTurn>[0]): void => context.err(renderTurn(turn, color))
    const result = await runDemo({ paths, env, runtime, say: (text) => context.err(`  ${text}`), onTurn })
    context.out(flag(args, 'json') ? JSON.stringify(result) : renderResult(result, color))
    return succeeded(result) ? 0 : 1
  },
}
