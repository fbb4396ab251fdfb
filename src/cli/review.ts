import { printable, printableJson } from '../lib/printable.ts'
import { applyReviewed, dropReviewed, layersOf, pathOf, pendingChanges } from '../session/review.ts'
import { type Applied, type Change, diffChanges, isRisky } from '../view/review.ts'
import { type Arguments, type Command, type Context, flag, usageError } from './command.ts'
import { sessionIdOf } from './order.ts'

export const command: Command = {
  name: 'review',
  usage: 'review ID [diff | apply | drop] [PATH…]',
  summary: 'see, apply or drop what a session changed',
  details: `
Without a verb it lists the changes that wait, first (marked !) what can run code on your machine and links that
lead out of the project.
diff    shows them as a unified diff
apply   writes them to the project; a file that changed meanwhile is a conflict and stays as it is (exit 1)
drop    throws them away
PATH…   only these (as listed), for apply and drop
`,
  options: { json: { type: 'boolean', help: 'the list, or the results, as JSON' } },
  run: async (args, context) => {
    const [word, verb = 'list', ...only] = args.words
    const id = sessionIdOf(command, word === undefined ? [] : [word])
    if (verb === 'diff') {
      context.out(await diffChanges(layersOf(context.paths, id)))
      return 0
    }
    const changes = await pendingChanges(context.paths, id, only)
    if (verb === 'list') return list(changes, args, context)
    if (verb === 'apply') return report(await applyReviewed(context.paths, id, changes), args, context)
    if (verb !== 'drop') throw usageError(command, 'say diff, apply or drop')
    await dropReviewed(context.paths, id, changes)
    return 0
  },
}

function list(changes: readonly Change[], args: Arguments, context: Context): number {
  if (flag(args, 'json')) context.out(printableJson(JSON.stringify(changes, null, 2)))
  else if (changes.length === 0) context.err('ambit: nothing waits for review')
  else for (const change of changes) context.out(lineOf(change))
  return 0
}

const lineOf = (change: Change): string =>
  `${isRisky(change) ? '!' : ' '} ${change.kind.padEnd(12)} ${printable(pathOf(change), 400)}` +
  (change.target === null ? '' : ` -> ${printable(change.target, 400)}`) +
  (change.leadsOut ? '  (leads out)' : '') +
  (change.conflict ? '  (changed outside meanwhile)' : '')

function report(results: readonly Applied[], args: Arguments, context: Context): number {
  if (flag(args, 'json')) context.out(printableJson(JSON.stringify(results, null, 2)))
  else
    for (const result of results) {
      context.out(
        `${result.state.padEnd(9)} ${printable(pathOf(result), 400)}${result.why ? `: ${printable(result.why)}` : ''}`,
      )
    }
  return results.every((result) => result.state === 'applied') ? 0 : 1
}
