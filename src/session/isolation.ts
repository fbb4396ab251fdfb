/** How strongly a session is isolated: the strongest of what profile, policy and command line ask for. */
import type { Admission } from '../policy/admission.ts'
import { RUNTIMES, type RuntimeName } from '../profile/plan.ts'

export interface Isolation {
  readonly runtime: RuntimeName
  /** Why it is stronger than what the profile asks for: reason codes of policy, `--runtime`. Empty where it is not. */
  readonly raised: readonly string[]
}

/** What a person asked for on the command line. */
const BY_HAND = '--runtime'

/** Pure. Nobody's word lowers another's: `asked` may be weaker than the rest, and then says nothing. */
export function isolationOf(
  profile: RuntimeName,
  { runtime, raised }: Pick<Admission, 'runtime' | 'raised'>,
  asked: RuntimeName | null,
): Isolation {
  const named = new Set([profile, runtime, asked])
  const chosen = RUNTIMES.findLast((name) => named.has(name)) ?? profile
  if (chosen === profile) return { runtime: chosen, raised: [] }
  const reasons = raised.filter((one) => one.runtime === chosen).map(({ reason }) => reason)
  const byHand = asked === chosen ? [BY_HAND] : []
  return { runtime: chosen, raised: [...new Set([...reasons, ...byHand])] }
}
