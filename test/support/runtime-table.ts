/** The table case × runtime: what every case of the isolation's families gave on each of the three. */
import { type RuntimeName, RUNTIMES } from '../../src/profile/plan.ts'
import { EXPECTED } from '../cases/catalogue.ts'
import { CASES, NOT_ON, runtimeOf } from '../cases/runtimes.ts'
import type { Outcome } from './results.ts'

/** An outcome and the runtime of the suite in which it came. */
export interface RanOn {
  readonly runtime: RuntimeName
  readonly outcome: Outcome
}

export const caseOf = (name: string): string | null => /^([A-Z]-\d\d) (?:user|root): /.exec(name)?.[1] ?? null

/** Of the cases that a suite was to run on a runtime, those of which no test ran or was skipped with a reason. */
export const notRun = (ran: readonly RanOn[], runtime: RuntimeName, entries: readonly string[]): string[] =>
  entries.filter((entry) => !ran.some((one) => one.runtime === runtime && one.outcome.name.startsWith(entry)))

/** The table as text: one row a case, then what cannot apply and why. `part`: only rows in which something ran. */
export function runtimeTable(ran: readonly RanOn[], part: boolean): string {
  const found = new Map<string, Outcome[]>()
  for (const { runtime, outcome } of ran) {
    const id = caseOf(outcome.name)
    if (id === null) continue
    const place = `${id} ${runtimeOf(id, runtime)}`
    found.set(place, [...(found.get(place) ?? []), outcome])
  }
  const cell = (id: string, runtime: RuntimeName): string =>
    id in NOT_ON[runtime] ? '—' : verdict(found.get(`${id} ${runtime}`) ?? [])
  const rows = CASES.map((id) => [id, ...RUNTIMES.map((runtime) => cell(id, runtime))]).filter(
    ([, ...cells]) => !part || cells.some((text) => !'—·'.includes(text)),
  )
  const lines = [['case', ...RUNTIMES], ...rows].map(([id = '', ...cells]) =>
    `${id.padEnd(6)}${cells.map((text) => text.padEnd(13)).join('')}${EXPECTED[id] ?? ''}`.trimEnd(),
  )
  const counts = RUNTIMES.map((runtime, at) =>
    summary(
      runtime,
      rows.map((row) => row[at + 1] ?? ''),
    ),
  )
  return `${lines.join('\n')}\n\n${counts.join('\n')}\n\n${reasons()}`
}

function verdict(outcomes: readonly Outcome[]): string {
  if (outcomes.length === 0) return '·'
  if (outcomes.some(({ state }) => state === 'failed')) return 'FAILED'
  if (outcomes.some(({ state }) => state === 'unsteady')) return 'unsteady'
  if (outcomes.every(({ state }) => state === 'skipped')) return 'skipped'
  const ran = outcomes.filter(({ state }) => state === 'passed').map(({ name }) => name.split(/[ :]/)[1])
  const users = [...new Set(ran)]
  return users.length === 1 ? `held (${users[0]})` : 'held'
}

function summary(runtime: RuntimeName, cells: readonly string[]): string {
  const count = (start: string): number => cells.filter((cell) => cell.startsWith(start)).length
  const rest = [
    [count('FAILED'), 'FAILED'],
    [count('unsteady'), 'unsteady'],
    [count('skipped'), 'skipped'],
    [count('—'), 'cannot apply (—)'],
    [count('·'), 'not in this run (·)'],
  ] as const
  const more = rest.filter(([number]) => number > 0).map(([number, what]) => `, ${number} ${what}`)
  return `${runtime}: ${count('held')} held${more.join('')}`
}

/** Ids with one reason share a line. */
function reasons(): string {
  return RUNTIMES.flatMap((runtime) => {
    const byReason = new Map<string, string[]>()
    for (const [id, why] of Object.entries(NOT_ON[runtime]))
      byReason.set(why, [...(byReason.get(why) ?? []), id])
    return [...byReason].map(([why, ids]) => `  not on ${runtime}: ${ids.join(' ')}  ${why}`)
  }).join('\n')
}
