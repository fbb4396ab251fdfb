import { repair } from '../daemon/repair.ts'
import { printable } from '../lib/printable.ts'
import { RUNTIMES } from '../profile/plan.ts'
import { probeMachine } from '../runtime/doctor.ts'
import { type Command, flag, noWords } from './command.ts'

const MARK = { fully: '✓', partly: '~', not: '✗' } as const

export const command: Command = {
  name: 'doctor',
  usage: 'doctor [--json] [--repair]',
  summary: 'what this machine supports; --repair cleans up',
  details: `
Tries each primitive that Ambit needs, rather than asking for versions, and says what it would take to get the rest;
then, for each runtime, whether sessions can run here. A guest is booted anew to see whether KVM works.
--repair clears what a crash or a power cut left: stale sockets, processes and mounts of dead sessions. It never
touches a session that runs, a log or a change under review.
exit status: 0 when sessions of the runtime os-sandbox can run here, 1 when they cannot.
`,
  options: {
    json: { type: 'boolean', help: 'one JSON object' },
    repair: { type: 'boolean', help: 'clear leftovers' },
  },
  run: async (args, context) => {
    noWords(command, args)
    const repaired = flag(args, 'repair') ? await repair(context.paths) : []
    const report = await probeMachine(context.paths)
    if (flag(args, 'json')) {
      context.out(JSON.stringify({ ...report, repaired }, null, 2))
      return report.ready ? 0 : 1
    }
    for (const item of repaired) context.out(`repaired: ${printable(item)}`)
    if (flag(args, 'repair') && repaired.length === 0) context.out('nothing was left to repair')
    for (const probe of report.probes) {
      context.out(`${MARK[probe.state]} ${probe.name.padEnd(22)} ${printable(probe.detail)}`)
      if (probe.remedy) context.out(`  ${' '.repeat(22)} ${probe.remedy}`)
    }
    for (const runtime of RUNTIMES) {
      const lacking = report.lacking[runtime]
      const says = lacking.length === 0 ? 'sessions can run here' : `lacks ${lacking.join(', ')}`
      context.out(`${lacking.length === 0 ? MARK.fully : MARK.not} ${runtime.padEnd(22)} ${says}`)
    }
    return report.ready ? 0 : 1
  },
}
