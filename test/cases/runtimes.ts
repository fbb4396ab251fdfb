/**
 * One suite, three runtimes: which cases of the families C, F, P, R and N a runtime can have, and which of them every
 * plain `./dev test` runs there, too. All of them: `./dev test --runtime container`, `./dev test --runtime microvm`.
 */
import type { RuntimeName } from '../../src/profile/plan.ts'
import { EXPECTED } from './catalogue.ts'

/** The families that concern the isolation itself; the others are about gate, log and daemon, which are one for all. */
const FAMILIES = 'CFPRN'

/** Every claimed case of these families, in the catalogue's order. */
export const CASES: readonly string[] = Object.keys(EXPECTED).filter((id) => FAMILIES.includes(id[0] ?? ''))

const GVISOR = 'names gVisor itself'
const MACHINE = 'names the machine itself'

/** Cases that cannot apply on a runtime, each with why; the table prints them. */
export const NOT_ON: Readonly<Record<RuntimeName, Readonly<Record<string, string>>>> = {
  'os-sandbox': { 'C-49': GVISOR, 'C-50': GVISOR, 'C-51': MACHINE, 'C-52': MACHINE },
  container: { 'C-51': MACHINE, 'C-52': MACHINE },
  microvm: { 'C-49': GVISOR, 'C-50': GVISOR },
}

/**
 * What a plain `./dev test` runs on the other runtimes, beside what names one of them itself: enough to see that one
 * broke, in minutes.
 */
export const IN_CI: Readonly<Record<Exclude<RuntimeName, 'os-sandbox'>, readonly string[]>> = {
  container: [],
  microvm: [],
}

/** Cases that can be run on a runtime. */
export const casesOn = (runtime: RuntimeName): readonly string[] =>
  CASES.filter((id) => !(id in NOT_ON[runtime]))

/** The runtime that a case is about, when it is run in a suite of `runtime`: a case may name its own. */
export function runtimeOf(id: string, runtime: RuntimeName): RuntimeName {
  if (!(id in NOT_ON[runtime])) return runtime
  const others = (Object.keys(NOT_ON) as RuntimeName[]).filter((other) => !(id in NOT_ON[other]))
  return others[0] ?? runtime
}
