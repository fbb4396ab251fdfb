import { connectDaemon, type SessionInfo } from '../daemon/client.ts'
import { printable, printableJson } from '../lib/printable.ts'
import { type Command, flag, noWords } from './command.ts'

export const command: Command = {
  name: 'sessions',
  usage: 'sessions [--all] [--json]',
  summary: 'list sessions',
  details: `
Lists the sessions that run: id, state, profile, agent, project. --all lists the ended ones too, newest last. The id is
what kill, freeze, thaw, narrow, review and why take.

states:
  running; frozen (ambit thaw ID lets it go on); detached (ambitd came back and has not heard of it yet);
  ended; failed (a part of it broke); killed (by an order, a limit, or it died without a word); refused (it never
  started); timeout; orphaned (the machine went down under it)
`,
  options: {
    all: { type: 'boolean', short: 'a', help: 'ended sessions too' },
    json: { type: 'boolean', help: 'one JSON array' },
  },
  run: async (args, context) => {
    noWords(command, args)
    const daemon = await connectDaemon(context.paths)
    try {
      const { sessions } = await daemon.call('sessions', { all: flag(args, 'all') })
      if (flag(args, 'json')) {
        context.out(printableJson(JSON.stringify(sessions, null, 2)))
        return 0
      }
      if (sessions.length === 0) context.err('ambit: no sessions run; ambit sessions --all lists ended ones')
      for (const session of sessions) context.out(lineOf(session))
      return 0
    } finally {
      daemon.close()
    }
  },
}

const lineOf = ({ id, state, profile, agent, project }: SessionInfo): string =>
  [cell(id, 17), cell(state, 9), cell(profile, 10), cell(agent, 16), cell(project ?? '-', 0)].join(' ')

const cell = (value: string, width: number): string => printable(value, 60).padEnd(width)
