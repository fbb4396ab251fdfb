/** What counts of a file that ran again, alone, because it failed beside another. */
import type { Outcome } from './results.ts'

/** More is broken, not disturbed. */
const MOST_FILES = 15
const MOST_MS = 20 * 60_000
/** A leak that needs a race shows in one run of two: an attack that succeeded once must fail this often in a row. */
const CLEAN_RUNS = 3

/** Files with failures that a busy machine may explain, and that are soon looked at again. */
export function disturbed(outcomes: readonly Outcome[]): readonly string[] {
  const files = [...new Set(outcomes.filter(hasFailed).map((one) => one.file))]
  const ms = outcomes.filter((one) => files.includes(one.file)).reduce((sum, one) => sum + one.ms, 0)
  return files.length > MOST_FILES || ms > MOST_MS ? [] : files
}

/** Files that have to run once more: those of cases that failed, or that a dying file kept back, while they stay clean. */
export function oweAnother(
  first: readonly Outcome[],
  looks: readonly (readonly Outcome[])[],
): readonly string[] {
  const last = looks.at(-1) ?? []
  if (looks.length >= CLEAN_RUNS) return []
  return [...new Set(last.map((one) => one.file))].filter((file) => {
    const [before, now] = [of(first, file), of(last, file)]
    if (now.some((one) => hasFailed(one) && (isCase(one) || isFile(one)))) return false
    return before.some((one) => hasFailed(one) && (isCase(one) || (isFile(one) && now.some(isCase))))
  })
}

/**
 * A test failed if it never passed, or if its file died when it ran alone: what runs again in peace and passes was
 * disturbed. A case failed also if it ever did when alone, or had fewer than three clean runs after it failed.
 * `unsteady` are the failures, of any time, that do not count; such a test's state is 'unsteady', never 'passed'.
 */
export function settle(
  first: readonly Outcome[],
  looks: readonly (readonly Outcome[])[],
): { outcomes: readonly Outcome[]; unsteady: readonly Outcome[] } {
  const files = [...new Set(looks.flat().map((one) => one.file))]
  const settled = files.map((file) =>
    settleFile(
      of(first, file),
      looks.map((look) => of(look, file)).filter((look) => look.length > 0),
    ),
  )
  return {
    outcomes: [
      ...first.filter((one) => !files.includes(one.file)),
      ...settled.flatMap(({ outcomes }) => outcomes),
    ],
    unsteady: settled.flatMap(({ unsteady }) => unsteady),
  }
}

function settleFile(
  first: readonly Outcome[],
  looks: readonly (readonly Outcome[])[],
): { outcomes: readonly Outcome[]; unsteady: readonly Outcome[] } {
  const all = [...first, ...looks.flat()]
  const last = looks.at(-1) ?? []
  const died = looks.flat().some((one) => hasFailed(one) && isFile(one))
  const cut = first.some((one) => hasFailed(one) && isFile(one))
  const passes = (run: readonly Outcome[], name: string): boolean => {
    const own = run.filter((one) => one.name === name)
    // Of several with one name, all must have. One that is skipped, or not there, has not passed.
    return own.length > 0 && own.every(({ state }) => state === 'passed')
  }
  const disturbedOnce = (one: Outcome): boolean =>
    all.some((other) => other.name === one.name && hasFailed(other)) ||
    (cut && isCase(one) && one.state === 'passed' && !passes(first, one.name))
  const failed = (one: Outcome): boolean => {
    if (died) return true
    if (!isCase(one))
      return !(isFile(one) ? last.length > 0 : [first, ...looks].some((run) => passes(run, one.name)))
    const clean = looks.every((look) => passes(look, one.name))
    return !clean || (looks.length < CLEAN_RUNS && !passes(first, one.name))
  }
  const judge = (one: Outcome): Outcome =>
    disturbedOnce(one) ? { ...one, state: failed(one) ? 'failed' : 'unsteady' } : one
  const names = new Set(last.map(({ name }) => name))
  const lost = all.filter(
    (one, at) =>
      hasFailed(one) &&
      !names.has(one.name) &&
      failed(one) &&
      all.findIndex((other) => other.name === one.name && hasFailed(other)) === at,
  )
  return {
    outcomes: [...last.map(judge), ...lost],
    unsteady: all.filter((one) => hasFailed(one) && !failed(one)),
  }
}

/** What the run ends with: each failure that does not count, and what it said. */
export function unsteadyText(unsteady: readonly Outcome[]): string {
  const lines = unsteady.map(({ file, name, reason }) => `  UNSTEADY ${file}: ${name}\n    ${reason}`)
  return `UNSTEADY: failed in one run and passed alone (a case: ${CLEAN_RUNS} times in a row). Not shown to hold: look at each.\n${lines.join('\n')}`
}

const of = (outcomes: readonly Outcome[], file: string): readonly Outcome[] =>
  outcomes.filter((one) => one.file === file)

const hasFailed = ({ state }: Outcome): boolean => state === 'failed'

/** Its name carries a case's id, in the table's form or in another. */
const isCase = ({ name }: Outcome): boolean => /(^|[\s(])[A-Z]-\d\d\b/.test(name)

/** Of the file itself: it died, or ran out of time. */
const isFile = ({ file, name }: Outcome): boolean => name.endsWith(file)
