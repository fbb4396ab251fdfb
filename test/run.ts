/**
 * `./dev test [--all] [--runtime R [--as WHO]] [PATTERN…]`: lint, Rust, TypeScript and Rego tests, then the case table,
 * the table case × runtime and one last line `N passed, N failed, N skipped`. The exit status is non-zero on any failure,
 * on zero tests, and when a case that the product claims did not run. `--runtime` runs only attack cases, with sessions
 * of another runtime: all that it can have, or those of the files that a pattern names; `--as` one half of them.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { run } from 'node:test'
import { parseArgs } from 'node:util'
import type { RuntimeName } from '../src/profile/plan.ts'
import { messageOf } from '../src/lib/errors.ts'
import { IN_CI } from './cases/runtimes.ts'
import { caseTable, missingCases } from './support/case-table.ts'
import { OBSERVED, type Observation } from './support/case.ts'
import { cannotBoot, testImage } from './support/guest.ts'
import { product } from './support/product.ts'
import { limitFiles } from './support/file-limit.ts'
import { watch, type Outcome } from './support/results.ts'
import { caseOf, notRun, type RanOn, runtimeTable } from './support/runtime-table.ts'
import { parseRuntime, RUNTIME_VARIABLE } from './support/runtime.ts'
import { disturbed, oweAnother, settle, unsteadyText } from './support/second-look.ts'
import { removeLeftStages, STAGES } from './support/left-stages.ts'
import { type Chosen, type Suite, suites } from './support/suites.ts'
import { account, openDevices, parseAs } from './support/users.ts'

/** A program that hangs is a failure with a name, not a run that somebody else ends. */
const STEP_MS = 1_800_000
/** A whole run without the long tests, which have an hour of their own among them. Building does not count. */
const LIMIT_MINUTES = 45
/** A file that hangs, too. The longest of those that boot no machine takes three minutes. */
const FILE_MS = 600_000
/** With a machine, and for a single test. */
const LONG_MS = 1_200_000
/** Files whose tests boot a machine. */
const BOOTS =
  /\/([a-z-]*microvm[a-z-]*|guest|image|equivalence|attest|accelerator|cgroup|doctor|raised)(\.all)?\.test\.ts$/

const root = join(import.meta.dirname, '..')
const { all, chosen, as, patterns } = argumentsOf()
const runtime = chosen ?? 'os-sandbox'
const whole = patterns.length === 0 && chosen === null
const scratch = mkdtempSync(join(tmpdir(), 'ambit-test-'))
const observed = join(scratch, 'observed')
process.env[OBSERVED] = observed
process.env[STAGES] = join(scratch, 'stages')

const started = performance.now()
const complaints: string[] = []
const note = openDevices()
if (note) console.log(`· ${note}`)
// Another user reads what a test puts down.
process.umask(0o022)
shareAtOnce()

if (whole) {
  step('lint', process.execPath, ['test/lint.ts'], root)
  step(
    'cargo test',
    'cargo',
    ['test', '--release', '--locked', '--workspace', '--quiet'],
    join(root, 'native'),
  )
}
const ran: RanOn[] = []
const unsteady: Outcome[] = []
for (const suite of suites(root, { patterns, all, runtime: chosen, as })) {
  if (suite.runtime !== runtime) console.log(`— cases on ${suite.runtime}`)
  await prepareImage(suite)
  const first = await runTests(suite, suite.files, 2)
  const second = whole ? await secondLook(suite, first) : { outcomes: first, unsteady: [] }
  ran.push(...second.outcomes.map((outcome) => ({ runtime: suite.runtime, outcome })))
  unsteady.push(...second.unsteady)
}
if (whole) regoTests()

const outcomes = ran.map(({ outcome }) => outcome)
const ownOutcomes = ran.filter((one) => one.runtime === runtime).map(({ outcome }) => outcome)
const skipped = outcomes.filter((outcome) => outcome.state === 'skipped')
if (whole || (chosen === null && outcomes.some((outcome) => caseOf(outcome.name) !== null)))
  console.log(
    `\n${caseTable(
      ownOutcomes,
      readObservations().filter((one) => one.runtime === runtime),
    )}`,
  )
if (whole || chosen !== null) console.log(`\n${runtimeTable(ran, !whole)}`)
if (skipped.length) {
  console.log('\nskipped:')
  for (const { name, reason } of skipped) console.log(`  ${name}: ${reason || 'no reason given'}`)
}
if (whole) for (const id of missingCases(ownOutcomes)) complaints.push(`case ${id} did not run`)
if (whole)
  for (const [on, entries] of Object.entries(IN_CI) as [RuntimeName, readonly string[]][])
    for (const entry of notRun(ran, on, entries)) complaints.push(`case ${entry} did not run on ${on}`)
if (outcomes.length === 0) complaints.push('no test ran')
if (unsteady.length) console.log(`\n${unsteadyText(unsteady)}`)
const minutes = (performance.now() - started) / 60_000
const late = whole && !all && minutes > LIMIT_MINUTES
if (late && process.env['CI']) complaints.push(`a whole run took longer than ${LIMIT_MINUTES} minutes`)
const failed = ran.filter(({ outcome }) => outcome.state === 'failed')
for (const { runtime: on, outcome } of failed)
  console.log(`✗ ${outcome.file}: ${outcome.name}${on === runtime ? '' : ` (on ${on})`}`)
for (const complaint of complaints) console.log(`✗ ${complaint}`)

const count = (state: Outcome['state']): number => outcomes.filter((one) => one.state === state).length
const failures = failed.length + complaints.length
removeLeftStages()
rmSync(scratch, { recursive: true, force: true })
const limit = whole && !all ? ` (${minutes.toFixed(1)} of at most ${LIMIT_MINUTES} minutes)` : ''
console.log(`\n${late ? 'TOO LONG: ' : ''}${Math.round(minutes * 60)} s${limit}`)
if (count('unsteady') > 0) console.log(`${count('unsteady')} UNSTEADY: neither passed nor failed`)
console.log(`${count('passed')} passed, ${failures} failed, ${skipped.length} skipped`)
process.exit(failures > 0 ? 1 : 0)

function argumentsOf(): Omit<Chosen, 'runtime'> & { readonly chosen: RuntimeName | null } {
  const options = {
    all: { type: 'boolean', default: false },
    runtime: { type: 'string' },
    as: { type: 'string' },
  } as const
  try {
    const { values, positionals } = parseArgs({ allowPositionals: true, options })
    const chosen = values.runtime === undefined ? null : parseRuntime(values.runtime)
    const as = values.as === undefined ? null : parseAs(values.as)
    if (as !== null && chosen === null) throw new TypeError('--as is of use with --runtime only')
    return { all: values.all, chosen, as, patterns: positionals }
  } catch (error) {
    process.stderr.write(`test: ${messageOf(error).split('. ')[0]}; see ./dev test --help\n`)
    process.exit(2)
  }
}

/** The image of a microVM comes from the network, which a test in a network of its own does not have. */
async function prepareImage({ runtime: on, files }: Suite): Promise<void> {
  const wanted = on === 'microvm' || files.some((file) => BOOTS.test(file))
  if (cannotBoot || !wanted) return
  await testImage().catch((error: unknown) => complaints.push(`no image for microVMs: ${String(error)}`))
}

/** Two files at a time: sessions mostly wait, but two cores is what CI has. A machine without KVM keeps both busy. */
async function runTests(suite: Suite, files: readonly string[], most: number): Promise<readonly Outcome[]> {
  if (files.length === 0) return []
  process.env[RUNTIME_VARIABLE] = suite.runtime
  // For one test that names none, and beyond what its commands may take together. An hour
  // (test/life/hour.all.test.ts) has a beginning and an end, too; machines start slowly.
  const timeout = all ? 5_400_000 : suite.runtime === 'os-sandbox' ? LONG_MS : 2_400_000
  const paths = files.map((file) => join(root, file))
  const fileLimit = (file: string): number =>
    timeout > LONG_MS ? timeout : BOOTS.test(file) ? LONG_MS : FILE_MS
  const stop = limitFiles(paths, fileLimit, (file, ms) =>
    console.log(`✗ ${relative(root, file)}: it did not end within ${ms / 60_000} minutes, and was killed`),
  )
  return await watch(
    run({
      files: paths,
      cwd: root,
      concurrency: suite.runtime === 'microvm' ? 1 : most,
      timeout,
      execArgv: [],
      ...(suite.names && { testNamePatterns: [suite.names] }),
    }),
    root,
    timeout / 3,
  ).finally(stop)
}

/**
 * Files that failed run again, alone. A test that waits for a real program may come too late while another file holds
 * the processors; what is wrong fails again. Files of cases that failed run until they were clean three times in a row.
 */
async function secondLook(
  suite: Suite,
  first: readonly Outcome[],
): Promise<{ outcomes: readonly Outcome[]; unsteady: readonly Outcome[] }> {
  const looks: (readonly Outcome[])[] = []
  for (let files = disturbed(first); files.length > 0; files = oweAnother(first, looks)) {
    console.log(`— once more, alone: ${files.join(', ')}`)
    removeLeftStages()
    looks.push(await runTests(suite, files, 1))
  }
  return settle(first, looks)
}

/** Runs one program whose exit status is its verdict. */
function step(name: string, program: string, argv: readonly string[], cwd: string): void {
  console.log(`— ${name}`)
  const { status, error } = spawnSync(program, [...argv], { cwd, stdio: 'inherit', timeout: STEP_MS })
  if (status !== 0) complaints.push(`${name} failed${error ? `: ${error.message}` : ''}`)
}

function regoTests(): void {
  if (globSync('policies/**/*_test.rego', { cwd: root }).length === 0) return
  if (!existsSync(join(root, '.build/ambit.cjs'))) complaints.push('the product is not built: no Rego tests')
  else step('Rego tests', join(root, 'ambit'), ['policy', 'test'], root)
}

/**
 * What all files share is made before two of them make it at once. Why that fails is for the tests to say that need it.
 */
function shareAtOnce(): void {
  try {
    account('user')
    product()
  } catch {
    // No useradd, or nothing built.
  }
}

function readObservations(): readonly Observation[] {
  if (!existsSync(observed)) return []
  const lines = readFileSync(observed, 'utf8').split('\n').filter(Boolean)
  return lines.map((line) => JSON.parse(line) as Observation)
}
