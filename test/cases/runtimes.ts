/**
 * One suite, three runtimes: which cases of the families C, F, P, R and N a runtime can have, and which of them every
 * plain `./dev test` runs there, too. All of them: `./dev test --runtime container`, `./dev test --runtime microvm`.
 */
import type { RuntimeName } from '../../src/profile/plan.ts'
import { EXPECTED } from './catalogue.ts'

/** The families that concern the isolation itself; the others are about gate, log and daemon, which are one for all. */
const FAMILIES = 'CFPRN'

/** Of the others: what records a command, and which processes stand around it, is another on each runtime. */
const ALSO = ['A-17']

/** Every claimed case of these, in the catalogue's order. */
export const CASES: readonly string[] = Object.keys(EXPECTED).filter(
  (id) => FAMILIES.includes(id[0] ?? '') || ALSO.includes(id),
)

const GVISOR = 'names gVisor itself'
const MACHINE = 'names the machine itself'
const BOMBS = 'R-01 and R-02 are its bombs, and run there'

/** Cases that cannot apply on a runtime, each with why; the table prints them. */
export const NOT_ON: Readonly<Record<RuntimeName, Readonly<Record<string, string>>>> = {
  'os-sandbox': { 'C-49': GVISOR, 'C-50': BOMBS, 'C-51': MACHINE, 'C-52': MACHINE },
  container: { 'C-51': MACHINE, 'C-52': MACHINE },
  microvm: { 'C-49': GVISOR, 'C-50': BOMBS },
}

/** By an ordinary user only: what root's sessions have of their own, others of the list show. */
const asUser = (...ids: readonly string[]): string[] => ids.map((id) => `${id} user`)

const asBoth = (...ids: readonly string[]): readonly string[] => ids

/**
 * What a plain `./dev test` runs on the other runtimes, beside what names one of them itself: enough to see that one
 * broke, in minutes.
 */
export const IN_CI: Readonly<Record<Exclude<RuntimeName, 'os-sandbox'>, readonly string[]>> = {
  container: [
    ...asBoth('C-01', 'C-02', 'C-05', 'C-11', 'C-20', 'C-28', 'C-32', 'C-36', 'C-40', 'C-42', 'C-43', 'C-44'),
    ...asUser('C-03', 'C-06', 'C-07', 'C-08', 'C-09', 'C-12', 'C-13', 'C-15', 'C-16', 'C-17', 'C-21', 'C-22'),
    ...asUser('C-24', 'C-25', 'C-26', 'C-27', 'C-29', 'C-30', 'C-31', 'C-33', 'C-35', 'C-38', 'C-41', 'C-46'),
    ...asBoth('F-01', 'F-02', 'F-03', 'F-07', 'F-08', 'F-10', 'F-13'),
    ...asUser('F-12', 'F-14', 'F-17', 'F-18', 'F-22', 'F-23', 'P-02', 'P-05', 'P-13'),
    ...asUser('R-01', 'R-02', 'R-07', 'N-01', 'N-02', 'N-03', 'N-38'),
  ],
  // Most of one file's share one machine.
  microvm: [
    ...asBoth('C-01', 'C-02', 'C-05', 'C-11', 'C-28', 'C-32', 'F-01', 'F-02', 'F-03', 'F-10', 'F-13'),
    ...asUser('C-03', 'C-06', 'C-07', 'C-08', 'C-09', 'C-10', 'C-12', 'C-13', 'C-15', 'C-16', 'C-17', 'C-18'),
    ...asUser('C-20', 'C-21', 'C-22', 'C-23', 'C-24', 'C-25', 'C-26', 'C-27', 'C-29', 'C-30', 'C-31', 'C-33'),
    ...asUser('C-34', 'C-35', 'C-36', 'C-38', 'C-40', 'C-41', 'C-42', 'C-43', 'C-44', 'F-07', 'F-08', 'F-23'),
    ...asUser('P-02', 'P-05', 'R-02'),
  ],
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
