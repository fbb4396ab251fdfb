/** What counts of a file that ran a second time, alone, because it failed beside another. */
import type { Outcome } from './results.ts'

/** More is broken, not disturbed. */
const MOST_FILES = 15
const MOST_MS = 20 * 60_000

/** Files with failures that a busy machine may explain, and that are soon looked at again. */
export function disturbed(outcomes: readonly Outcome[]): readonly string[] {
  const files = [...new Set(outcomes.filter(hasFailed).map((one) => one.file))]
  const ms = outcomes.filter((one) => files.includes(one.file)).reduce((sum, one) => sum + one.ms, 0)
  return files.length > MOST_FILES || ms > MOST_MS ? [] : files
}

/**
 * A test failed if it never passed, or if its file died the second time: what runs again in peace and passes was
 * disturbed. `unsteady` are the failures, of either time, that do not count.
 */
export function settle(
  first: readonly Outcome[],
  again: readonly Outcome[],
): { outcomes: readonly Outcome[]; unsteady: readonly Outcome[] } {
  const files = new Set(again.map((one) => one.file))
  const dead = new Set(again.filter((one) => hasFailed(one) && isFile(one)).map((one) => one.file))
  const before = first.filter((one) => files.has(one.file))
  const firstPassed = passedOf(before)
  const passed = passedOf(again)
  const counts = (one: Outcome): boolean => dead.has(one.file) || !firstPassed.has(keyOf(one))
  const second = again.map(
    (one): Outcome => (hasFailed(one) && !counts(one) ? { ...one, state: 'passed' } : one),
  )
  const failedAgain = new Set(again.filter(hasFailed).map(keyOf))
  // One that is skipped the second time, or not there, has not passed. A file itself is there only when it dies.
  const lost = before.filter(
    (one) => hasFailed(one) && !isFile(one) && !passed.has(keyOf(one)) && !failedAgain.has(keyOf(one)),
  )
  const outcomes = [...first.filter((one) => !files.has(one.file)), ...second, ...lost]
  const failed = new Set(outcomes.filter(hasFailed).map(keyOf))
  const unsteady = [...before, ...again].filter((one) => hasFailed(one) && !failed.has(keyOf(one)))
  return { outcomes, unsteady }
}

const hasFailed = ({ state }: Outcome): boolean => state === 'failed'

/** Of the file itself: it died, or ran out of time. */
const isFile = ({ file, name }: Outcome): boolean => name.endsWith(file)

const keyOf = ({ file, name }: Outcome): string => `${file}\0${name}`

/** Of several with one name, all must have. */
function passedOf(outcomes: readonly Outcome[]): ReadonlySet<string> {
  const not = new Set(outcomes.filter((one) => one.state !== 'passed').map(keyOf))
  return new Set(outcomes.map(keyOf).filter((key) => !not.has(key)))
}
