/** The table that a test run ends with: every claimed case, what was expected and what was seen, by kind of user. */
import { CANNOT, EXPECTED, LATER } from '../cases/catalogue.ts'
import { PUBLISHED } from '../cases/published.ts'
import type { Observation } from './case.ts'
import type { Outcome } from './results.ts'
import type { As } from './users.ts'

/** Outcomes of one case by one kind of user. */
function outcomesOf(outcomes: readonly Outcome[], id: string, as: As): readonly Outcome[] {
  return outcomes.filter((outcome) => outcome.name.startsWith(`${id} ${as}: `))
}

/** Ids that are claimed and of which no test ran or was skipped with a reason. */
export function missingCases(outcomes: readonly Outcome[]): readonly string[] {
  return Object.keys(EXPECTED).filter(
    (id) => outcomesOf(outcomes, id, 'user').length === 0 || outcomesOf(outcomes, id, 'root').length === 0,
  )
}

/** The table as text. */
export function caseTable(outcomes: readonly Outcome[], observations: readonly Observation[]): string {
  const got = (id: string, as: As): string => {
    const own = outcomesOf(outcomes, id, as)
    if (own.length === 0) return 'not run'
    if (own.some((one) => one.state === 'failed')) return 'FAILED'
    if (own.some((one) => one.state === 'unsteady')) return 'unsteady'
    if (own.every((one) => one.state === 'skipped')) return 'skipped'
    const seen = observations.filter((one) => one.id === id && one.as === as).map((one) => one.got)
    // A file that ran several times saw the same several times.
    return [...new Set(seen)].join('; ') || 'held'
  }
  const rows = Object.entries(EXPECTED).map(([id, expected]) => [
    id,
    expected,
    got(id, 'user'),
    got(id, 'root'),
  ])
  const table = columns([['case', 'expected', 'got (user)', 'got (root)'], ...rows])
  const cannot = Object.entries(CANNOT).map(([id, why]) => `  ${id}  ${why}`)
  return `${table}\n\ncannot apply (${cannot.length}):\n${cannot.join('\n')}\n\nnot yet (${LATER.length}): ${LATER.join(' ')}\n\n${publishedTable()}`
}

/** What was published of others, and where it is tried. */
function publishedTable(): string {
  const lines = PUBLISHED.map(({ product, what, here }, at) => {
    const head = PUBLISHED[at - 1]?.product === product ? '' : `  ${product}\n`
    return `${head}    ${what}: ${typeof here === 'string' ? `not tried: ${here}` : here.join(' ')}`
  })
  const tried = PUBLISHED.filter(({ here }) => typeof here !== 'string').length
  return `published of others (${PUBLISHED.length}; ${tried} tried by the cases named):\n${lines.join('\n')}`
}

const WIDEST = [4, 48, 52, 52]

function columns(rows: readonly (readonly string[])[]): string {
  const clipped = rows.map((row) => row.map((cell, column) => clip(cell, WIDEST[column] ?? 40)))
  const widths = WIDEST.map((_, column) => Math.max(...clipped.map((row) => row[column]?.length ?? 0)))
  return clipped
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

const clip = (text: string, limit: number): string =>
  text.length <= limit ? text : `${text.slice(0, limit - 1)}…`
