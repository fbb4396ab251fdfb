import { connectDaemon } from '../daemon/client.ts'
import { parseGlob } from '../lib/glob.ts'
import { type Command, usageError } from './command.ts'
import { sessionIdOf } from './order.ts'

export const command: Command = {
  name: 'narrow',
  usage: 'narrow ID hide | protect PATTERN…',
  summary: 'take files from a session that runs',
  details: `
hide     from now on no such name exists: not for a listing, an open file or a mapping of one
protect  from now on nothing there changes, by no handle that is open either

PATTERN as in a profile, below every directory of the session; ** takes all. It holds until the session ends and
cannot be taken back. What the agent has read before, it has.

examples:
  ambit narrow ID hide '**/*.key' 'payroll/**'
  ambit narrow ID protect '**'                     # from here on it reads only
`,
  options: {},
  run: async (args, context) => {
    const [word, verb, ...patterns] = args.words
    const id = sessionIdOf(command, word === undefined ? [] : [word])
    if ((verb !== 'hide' && verb !== 'protect') || patterns.length === 0)
      throw usageError(command, 'say hide or protect, and what')
    for (const pattern of patterns) checkPattern(pattern)
    const daemon = await connectDaemon(context.paths)
    try {
      await daemon.call('narrow', { id, hide: [], protect: [], [verb]: patterns })
      return 0
    } finally {
      daemon.close()
    }
  },
}

function checkPattern(pattern: string): void {
  parseGlob(pattern)
  if (pattern.startsWith('!')) throw usageError(command, 'a grant that shrinks re-admits nothing')
}
