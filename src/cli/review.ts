import { resolve } from 'node:path'
import { AmbitError } from '../lib/errors.ts'
import { printable, printableJson } from '../lib/printable.ts'
import { applyReviewed, dropReviewed, layersOf, pathOf, pendingChanges } from '../session/review.ts'
import { type Applied, type Change, diffChanges, isRisky } from '../view/review.ts'
import { type Arguments, type Command, type Context, flag, usageError } from './command.ts'
import { sessionIdOf } from './order.ts'
import type { SessionId } from '../session/id.ts'

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
PATH…   only these, as listed or from here
`,
  options: { json: { type: 'boolean', help: 'the list, or the results, as JSON' } },
  run: async (args, context) => {
    const [word, verb = 'list', ...only] = args.words
    const id = sessionIdOf(command, word === undefined ? [] : [word])
    if (!VERBS.has(verb)) throw usageError(command, 'say diff, apply or drop')
    if (verb === 'diff' && flag(args, 'json'))
      throw usageError(command, 'a diff is text: --json goes with the list, apply and drop')
    const changes = chosen(await pendingChanges(context.paths, id), only, id, context)
    if (verb === 'list' || (changes.length === 0 && !flag(args, 'json'))) return list(changes, args, context)
    if (verb === 'apply') return report(await applyReviewed(context.paths, id, changes), args, context)
    if (verb === 'diff') context.out(await diffChanges(layersOf(context.paths, id), changes))
    else return await drop(id, changes, args, context)
    return 0
  },
}

const VERBS = new Set(['list', 'diff', 'apply', 'drop'])

/** Those that `only` names, all without one. A name that is none's ends it: what was meant is not known. */
function chosen(
  changes: readonly Change[],
  only: readonly string[],
  id: string,
  { cwd }: Context,
): readonly Change[] {
  if (only.length === 0) return changes
  const named = only.map((name) => {
    const found = changes.filter((change) => [name, resolve(cwd, name)].includes(pathOf(change)))
    return { name, found: found.length > 0 ? found : changes.filter(({ path }) => path === name) }
  })
  const stray = named.find(({ found }) => found.length === 0)
  if (stray)
    throw new AmbitError(
      'ERR_INPUT_INVALID',
      printable(stray.name),
      'no change of that name waits',
      `ambit review ${id} lists those that do`,
    )
  const wanted = new Set(named.flatMap(({ found }) => found))
  return changes.filter((change) => wanted.has(change))
}

function list(changes: readonly Change[], args: Arguments, context: Context): number {
  if (flag(args, 'json')) context.out(printableJson(JSON.stringify(changes, null, 2)))
  else if (changes.length === 0) context.err('ambit: nothing waits for review')
  else for (const change of changes) context.out(lineOf(change))
  return 0
}

async function drop(
  id: SessionId,
  changes: readonly Change[],
  args: Arguments,
  context: Context,
): Promise<number> {
  await dropReviewed(context.paths, id, changes)
  const dropped = changes.map(({ root, path }) => ({ root, path, state: 'dropped' }))
  if (flag(args, 'json')) context.out(printableJson(JSON.stringify(dropped, null, 2)))
  else for (const change of changes) context.out(`dropped   ${printable(pathOf(change), 400)}`)
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
