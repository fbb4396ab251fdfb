import { readdirSync } from 'node:fs'
import { AmbitError } from '../lib/errors.ts'
import { sessionsDir } from '../lib/paths.ts'
import { printable, printableJson } from '../lib/printable.ts'
import { activityOf } from '../session/end.ts'
import { parseSessionId } from '../session/id.ts'
import { type Command, type Context, flag } from './command.ts'
import { sessionIdOf } from './order.ts'

export const command: Command = {
  name: 'why',
  usage: 'why [ID] [--json]',
  summary: 'explain the last refusals of a session',
  details:
    'Without an ID it takes the newest session. Each line: what was tried, why it was refused, the place in the profile.',
  options: { json: { type: 'boolean', help: 'one JSON array' } },
  run: async (args, context) => {
    const id = args.words.length > 0 ? sessionIdOf(command, args.words) : newest(context)
    const { refusals } = activityOf(context.paths, id)
    if (flag(args, 'json')) {
      context.out(printableJson(JSON.stringify(refusals, null, 2)))
      return 0
    }
    if (refusals.length === 0) context.err(`ambit: session ${id}: nothing was refused`)
    for (const refusal of refusals) {
      const place = refusal.rule ? ` [${printable(refusal.rule, 80)}]` : ''
      const times = refusal.count > 1 ? ` ×${refusal.count}` : ''
      context.out(
        `${refusal.kind.padEnd(10)} ${printable(refusal.target, 160)}: ${printable(refusal.reason, 120)}${place}${times}`,
      )
    }
    return 0
  },
}

function newest(context: Context): string {
  let names: string[] = []
  try {
    names = readdirSync(sessionsDir(context.paths))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  const id = names
    .filter((name) => parseSessionId(name))
    .sort()
    .at(-1)
  if (!id) throw new AmbitError('ERR_SESSION_NOT_FOUND', 'why', 'there is no session yet', 'run one first')
  return id
}
