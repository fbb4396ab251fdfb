import { lastSession } from '../daemon/records.ts'
import { AmbitError } from '../lib/errors.ts'
import { printable, printableJson } from '../lib/printable.ts'
import { planOf, remediesOf } from '../session/refusals.ts'
import type { Remedy } from '../session/remedy.ts'
import { type Command, type Context, flag } from './command.ts'
import { sessionIdOf } from './order.ts'

const SHOWN = 20
const CHANGES_SHOWN = 5

export const command: Command = {
  name: 'why',
  usage: 'why [ID] [--json]',
  summary: 'explain the last refusals of a session',
  details: `
Without an ID it takes the newest session. For each refusal, newest last: what was tried, why it was refused, the place
in the profile, and the smallest change that would allow it with its risk; a limit that ended the session, too.
Nothing is ever changed by itself.
`,
  options: { json: { type: 'boolean', help: 'one JSON array, all of them' } },
  run: async (args, context) => {
    const id = args.words.length > 0 ? sessionIdOf(command, args.words) : newest(context)
    const remedies = remediesOf(context.paths, id)
    if (flag(args, 'json')) context.out(printableJson(JSON.stringify(remedies, null, 2)))
    else show(remedies, id, context)
    return 0
  },
}

function show(remedies: readonly Remedy[], id: string, context: Context): void {
  if (remedies.length === 0) return context.err(`ambit: session ${id}: nothing was refused`)
  if (remedies.length > SHOWN)
    context.err(`ambit: ${remedies.length - SHOWN} earlier refusals: ambit why ${id} --json`)
  for (const remedy of remedies.slice(-SHOWN)) context.out(textOf(remedy))
  const profile = planOf(context.paths, id)?.profile
  if (profile && remedies.some(({ changes }) => changes.length > 0)) {
    const copy =
      profile.origin === 'shipped'
        ? `; copy it to ${context.paths.config}/profiles first, it is Ambit's own`
        : ''
    context.err(`ambit: changes are for ${printable(profile.file)}, or the profile it extends${copy}`)
  }
}

function textOf(remedy: Remedy): string {
  const place = remedy.rule ? ` [${remedy.rule}]` : ''
  const times = remedy.count > 1 ? ` ×${remedy.count}` : ''
  const lines = [`${remedy.kind.padEnd(10)} ${remedy.target}: ${remedy.reason}${place}${times}`]
  for (const { place: where, yaml } of remedy.changes.slice(0, CHANGES_SHOWN))
    lines.push(`           + ${where}:  ${yaml}`)
  const more = remedy.changes.length - CHANGES_SHOWN
  if (more > 0) lines.push(`           + ${more} more: --json`)
  lines.push(`           ${remedy.risk ? `risk ${remedy.risk}: ` : ''}${remedy.advice}`)
  return lines.join('\n')
}

function newest(context: Context): string {
  const id = lastSession(context.paths)
  if (!id) throw new AmbitError('ERR_SESSION_NOT_FOUND', 'why', 'there is no session yet', 'run one first')
  return id
}
