import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { loadVerifierKey } from '../audit/keys.ts'
import { proveEntry } from '../audit/prove.ts'
import { readEvents } from '../audit/read.ts'
import { verifyLog } from '../audit/verify.ts'
import { connectDaemon } from '../daemon/client.ts'
import { logDir } from '../lib/paths.ts'
import { AmbitError } from '../lib/errors.ts'
import { printable, printableJson } from '../lib/printable.ts'
import { type Arguments, type Command, type Context, failureOf, flag, text, usageError } from './command.ts'
import { sessionIdOf } from './order.ts'

export const command: Command = {
  name: 'log',
  usage: 'log [--session ID] [--json] | verify [DIR] [--key VKEY] | prove N | dir | key',
  summary: 'read, verify and prove the signed log',
  details: `
Without a word it prints the events, oldest first; --json prints one OCSF event a line.
verify [DIR]  recomputes every hash and checks the checkpoint's signature; names the first bad entry; exit 1
prove N       a C2SP tlog-proof of entry N, for somebody who has only the key
dir           where the tiles lie (C2SP tlog-tiles: any such tool can read them)
key           the C2SP verifier key
`,
  options: {
    session: { type: 'string', value: 'ID', help: 'only the events of this session' },
    json: { type: 'boolean', help: 'one OCSF event a line' },
    key: { type: 'string', value: 'VKEY', help: 'verify with this key instead of your own' },
  },
  run: async (args, context) => {
    const [verb, operand] = args.words
    if (verb === 'dir') return say(context, logDir(context.paths))
    if (verb === 'key') return say(context, loadVerifierKey(context.paths))
    if (verb === 'verify' && operand !== undefined) return verify(operand, args, context)
    if (verb === 'verify') return verifyOwn(args, context)
    await sequenceNow(context)
    if (verb === undefined) return events(args, context)
    if (verb === 'prove' && operand !== undefined && /^\d+$/.test(operand)) {
      return say(context, proveEntry(logDir(context.paths), Number(operand)))
    }
    throw usageError(command, 'say nothing, verify, prove N, dir or key')
  },
}

function say(context: Context, value: string): number {
  context.out(value)
  return 0
}

/** What journals still hold belongs to the answer. */
async function sequenceNow(context: Context): Promise<void> {
  const daemon = await connectDaemon(context.paths)
  try {
    await daemon.call('log.sync', {})
  } finally {
    daemon.close()
  }
}

function events(args: Arguments, context: Context): number {
  const named = text(args, 'session')
  const session = named === undefined ? undefined : sessionIdOf(command, [named])
  for (const event of readEvents(logDir(context.paths), session === undefined ? {} : { session })) {
    if (flag(args, 'json')) context.out(printableJson(event.json))
    else
      context.out(`${new Date(event.time).toISOString()} ${event.session} ${printable(event.message, 200)}`)
  }
  return 0
}

/** A log that ambitd refuses is the one that somebody wants to see verified. */
async function verifyOwn(args: Arguments, context: Context): Promise<number> {
  let refused = false
  try {
    await sequenceNow(context)
  } catch (error) {
    if (!(error instanceof AmbitError) || error.code !== 'ERR_LOG_INCONSISTENT') throw error
    context.err(failureOf(error).text)
    refused = true
  }
  const code = await verify(logDir(context.paths), args, context)
  return refused ? 1 : code
}

async function verify(dir: string, args: Arguments, context: Context): Promise<number> {
  const result = await verifyLog(dir, text(args, 'key') ?? loadVerifierKey(context.paths))
  if (flag(args, 'json')) context.out(printableJson(JSON.stringify(result)))
  else if (result.ok) context.out(`ok: ${result.size} entries, root ${result.root}`)
  else
    context.err(
      `ambit: log ${printable(dir)}: ${printable(result.why)}${result.index === null ? '' : ` (entry ${result.index})`}${hintOf(dir)}`,
    )
  return result.ok ? 0 : 1
}

const hintOf = (dir: string): string =>
  existsSync(join(dir, 'checkpoint')) ? '' : '; name the directory of a log (ambit log dir prints yours)'
