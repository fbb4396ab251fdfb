import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AmbitError } from '../lib/errors.ts'
import { sessionDir } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import type { Plan } from '../profile/plan.ts'
import { applyChanges, diffChanges, dropChanges, listChanges } from '../view/review.ts'
import { type Arguments, type Command, type Context, flag, usageError } from './command.ts'
import { sessionIdOf } from './order.ts'

export const command: Command = {
  name: 'review',
  usage: 'review ID [diff | apply | drop] [PATH…]',
  summary: 'see, apply or drop what a session changed',
  details: `
Without a verb it lists the changes that wait, what can run code on your machine first.
diff    shows them as a unified diff
apply   writes them to the project; a file that changed meanwhile is a conflict and stays as it is (exit 1)
drop    throws them away
PATH…   only these (as listed)
`,
  options: { json: { type: 'boolean', help: 'the list as JSON' } },
  run: async (args, context) => {
    const [id, verb = 'list', ...only] = args.words
    const session = sessionIdOf(command, id === undefined ? [] : [id])
    const dir = sessionDir(context.paths, session)
    if (!existsSync(join(dir, 'plan.json'))) {
      throw new AmbitError('ERR_SESSION_NOT_FOUND', session, 'there is no such session', 'see ambit sessions --all')
    }
    const plan = JSON.parse(readFileSync(join(dir, 'plan.json'), 'utf8')) as Plan
    const changes = listChanges(dir, plan.roots).filter((change) => only.length === 0 || only.includes(change.path))
    if (verb === 'list') return list(changes, args, context)
    if (verb === 'diff') context.out(await diffChanges(dir, plan.roots, changes))
    else if (verb === 'drop') await dropChanges(dir, plan.roots, changes)
    else if (verb === 'apply') return report(await applyChanges(dir, plan.roots, changes), context)
    else throw usageError(command, 'say diff, apply or drop')
    return 0
  },
}

function list(changes: ReturnType<typeof listChanges>, args: Arguments, context: Context): number {
  if (flag(args, 'json')) context.out(JSON.stringify(changes, null, 2))
  else if (changes.length === 0) context.err('ambit: nothing waits for review')
  else
    for (const change of changes) {
      context.out(`${change.executableConfig ? '!' : ' '} ${change.kind.padEnd(9)} ${printable(change.path, 400)}`)
    }
  return 0
}

function report(results: Awaited<ReturnType<typeof applyChanges>>, context: Context): number {
  for (const result of results) context.out(`${result.applied ? 'applied ' : 'CONFLICT'} ${printable(result.path, 400)}${result.why ? `: ${result.why}` : ''}`)
  return results.every((result) => result.applied) ? 0 : 1
}
