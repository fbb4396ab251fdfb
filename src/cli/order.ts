/** `kill`, `freeze` and `thaw` are one order to the daemon each. */
import { connectDaemon } from '../daemon/client.ts'
import { AmbitError } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import { parseSessionId, type SessionId } from '../session/id.ts'
import { type Command, usageError } from './command.ts'

/** The one session id among the words. @throws AmbitError */
export function sessionIdOf(own: Pick<Command, 'name'>, words: readonly string[]): SessionId {
  const [word, extra] = words
  if (word === undefined || extra !== undefined)
    throw usageError(own, 'name one session (ambit sessions lists them)')
  const id = parseSessionId(word)
  if (!id)
    throw new AmbitError(
      'ERR_SESSION_NOT_FOUND',
      printable(word, 40),
      'that is no session id',
      'see ambit sessions --all',
    )
  return id
}

/** The command that gives the daemon one order about one session. */
export function orderCommand(name: 'kill' | 'freeze' | 'thaw', summary: string, details: string): Command {
  const own: Command = {
    name,
    usage: `${name} ID`,
    summary,
    details,
    options: {},
    run: async (args, context) => {
      const id = sessionIdOf(own, args.words)
      const daemon = await connectDaemon(context.paths)
      try {
        await daemon.call(name, { id })
        return 0
      } finally {
        daemon.close()
      }
    },
  }
  return own
}
