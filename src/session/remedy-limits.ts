/** What would have let a session go on that one of its profile's limits ended. */
import type { Fact } from '../audit/fact.ts'
import { MEMORY_REMEDY, OUT_OF_MEMORY } from '../lib/oom.ts'
import type { Plan } from '../profile/plan.ts'
import { type Advice, none } from './advice.ts'
import { doubled } from './remedy-sizes.ts'
import type { Refusal } from './summary.ts'

/** The limit that ended a session, or null for every other fact. */
export function limitOf(fact: Fact): Refusal | null {
  if (fact.k !== 'session.end') return null
  if (fact.reason?.includes(OUT_OF_MEMORY))
    return { kind: 'limit', target: 'the session', reason: 'machine.memory', rule: null, count: 1 }
  const limit =
    fact.outcome === 'timeout' ? 'wallclock' : /: (memory|processes|disk)$/.exec(fact.reason ?? '')?.[1]
  if (!limit) return null
  return {
    kind: 'limit',
    target: 'the session',
    reason: `limit.${limit}`,
    rule: `isolation.${limit}`,
    count: 1,
  }
}

/** Twice the limit: enough to see whether it was too tight, or whether something ran wild. */
export function adviseLimit(fact: Fact, { isolation }: Plan): Advice {
  const reason = limitOf(fact)?.reason ?? ''
  if (reason === 'machine.memory')
    return none(`No limit of the profile: the kernel itself had no more memory to give; ${MEMORY_REMEDY}.`)
  const yaml = raised(reason, isolation)
  if (yaml === null) return none('The limit is as high as it can be.')
  return {
    changes: [{ place: 'isolation', yaml }],
    risk: 'low',
    advice:
      'The session reached it and was ended; this doubles it. It bounds what a program that runs wild can use up.',
  }
}

function raised(reason: string, { memory, disk, processes, wallclock }: Plan['isolation']): string | null {
  switch (reason) {
    case 'limit.memory':
      return doubled('memory', memory)
    case 'limit.disk':
      return doubled('disk', disk)
    case 'limit.processes':
      return `processes: ${processes * 2}`
    case 'limit.wallclock':
      return `wallclock: ${Math.ceil(wallclock / 500)}s`
    default:
      return null
  }
}
