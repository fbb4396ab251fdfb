/** Follows a node:test run: one line a file while it goes, failures in full, and every outcome for the tables. */
import { relative } from 'node:path'
import type { run } from 'node:test'
import { inspect } from 'node:util'

export interface Outcome {
  readonly file: string
  readonly name: string
  /** `unsteady`: failed in one of several runs, and what the others say outweighs it. */
  readonly state: 'passed' | 'failed' | 'skipped' | 'unsteady'
  /** Of a skip, or the beginning of what a failure says. */
  readonly reason: string
  readonly ms: number
}

interface Result {
  readonly name: string
  readonly file?: string | undefined
  /** The test file, where `file` is the place of the call. */
  readonly entryFile?: string | undefined
  readonly skip?: string | boolean | undefined
  readonly todo?: string | boolean | undefined
  readonly details: {
    readonly type?: string | undefined
    readonly duration_ms: number
    readonly error?: Error
  }
}

/** Resolves when the run is over; names files that took longer than `slowMs`. Suites are not counted, only tests; a file that dies counts as a failed test. */
export async function watch(
  stream: ReturnType<typeof run>,
  root: string,
  slowMs: number,
): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = []
  const told = new Map<string, string>()
  const add = (result: Result, passed: boolean): void => {
    // A suite fails for its tests, which are counted; only its own set-up failing is news.
    if (result.details.type === 'suite' && (passed || isEcho(result.details.error))) return
    const file = relative(root, result.entryFile ?? result.file ?? '')
    const outcome = outcomeOf(result, passed, file)
    outcomes.push(outcome)
    if (outcome.state === 'failed') printFailure(outcome, result.details.error, told)
  }
  stream.on('test:pass', (result) => add(result, true))
  stream.on('test:fail', (result) => add(result, false))
  stream.on('test:stderr', ({ message }) => process.stderr.write(message))
  stream.on('test:stdout', ({ message }) => process.stdout.write(message))
  stream.on('test:summary', ({ file, duration_ms, success }) => {
    if (!file) return
    printFile(relative(root, file), duration_ms, success, outcomes)
    if (duration_ms > slowMs) console.log(`slow: ${relative(root, file)}`)
  })
  stream.resume()
  await new Promise<void>((resolve, reject) => stream.once('end', resolve).once('error', reject))
  return outcomes
}

function outcomeOf(result: Result, passed: boolean, file: string): Outcome {
  const skip = result.skip ?? result.todo
  const ms = result.details.duration_ms
  if (skip !== undefined && skip !== false)
    return { file, name: result.name, state: 'skipped', reason: typeof skip === 'string' ? skip : '', ms }
  if (passed) return { file, name: result.name, state: 'passed', reason: '', ms }
  const reason = failureText(result.details.error).replace(/\s+/g, ' ').slice(0, REASON)
  return { file, name: result.name, state: 'failed', reason, ms }
}

const isEcho = (error: Error | undefined): boolean =>
  (error as { failureType?: string } | undefined)?.failureType === 'subtestsFailed'

/** Characters of a failure that are kept for the end of the run. */
const REASON = 400

function failureText(error: Error | undefined): string {
  const cause = (error as { cause?: unknown } | undefined)?.cause ?? error
  return cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause)
}

/** Milliseconds from which a test is named as slow. */
const SLOW = 10_000

function printFile(file: string, ms: number, success: boolean, outcomes: readonly Outcome[]): void {
  const own = outcomes.filter((outcome) => outcome.file === file)
  const ran = own.filter((outcome) => outcome.state !== 'skipped').length
  const skips = own.length - ran ? `, ${own.length - ran} skipped` : ''
  const slowest = own.toSorted((a, b) => b.ms - a.ms).find((outcome) => outcome.ms > SLOW)
  const slow = slowest ? `; slowest: ${slowest.name.slice(0, 40)} ${(slowest.ms / 1000).toFixed(0)}s` : ''
  console.log(`${success ? '✓' : '✗'} ${file} (${ran} tests${skips}, ${(ms / 1000).toFixed(1)}s${slow})`)
}

/** In full; the second failure for the very same reason (a shared session that did not start) only says so. */
function printFailure({ file, name }: Outcome, error: Error | undefined, told: Map<string, string>): void {
  const text = failureText(error)
  const before = told.get(text)
  told.set(text, before ?? name)
  console.log(`✗ ${file}: ${name}\n${(before ? `as: ${before}` : text).replace(/^/gm, '    ')}`)
}
