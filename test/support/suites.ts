/** What a test run consists of: the whole suite on the host's own kernel, and cases of it on the other runtimes. */
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { RuntimeName } from '../../src/profile/plan.ts'
import { casesOn, IN_CI } from '../cases/runtimes.ts'
import type { As } from './users.ts'

/** Test files that run with one runtime. */
export interface Suite {
  readonly runtime: RuntimeName
  /** Relative to the checkout. */
  readonly files: readonly string[]
  /** Names of the tests to run; null: all. */
  readonly names: RegExp | null
}

export interface Chosen {
  /** Keep the files whose path contains one. */
  readonly patterns: readonly string[]
  readonly all: boolean
  /** From `--runtime`. */
  readonly runtime: RuntimeName | null
  /** From `--as`: of the cases that `runtime` chooses, those of one kind of user. */
  readonly as: As | null
}

/** Ids of cases at the beginning of a test's name, or `C-05 user` for one kind of user only. */
const named = (cases: readonly string[]): RegExp => new RegExp(`^(${cases.join('|')})[ :]`)
const anyCase = (as: As | null): RegExp => new RegExp(`^[A-Z]-\\d\\d ${as ?? '(user|root)'}: `)

const ofUser = (cases: readonly string[], as: As | null): readonly string[] =>
  as === null ? cases : cases.map((id) => `${id} ${as}`)

/** Paths are relative to `root`. */
export function suites(root: string, { patterns, all, runtime, as }: Chosen): readonly Suite[] {
  const whole = patterns.length === 0
  const files = globSync('test/**/*.test.ts', { cwd: root })
    .filter((file) => !file.includes('/fixtures/'))
    .filter((file) => all || patterns.some((pattern) => file === pattern) || !file.endsWith('.all.test.ts'))
    .filter((file) => whole || patterns.some((pattern) => file.includes(pattern)))
    .sort()
  const holding = (cases: readonly string[]): string[] =>
    files.filter((file) => holds(join(root, file), cases))
  const onOther = (name: RuntimeName, cases: readonly string[]): Suite[] =>
    cases.length === 0 ? [] : [{ runtime: name, files: holding(cases), names: named(cases) }]
  if (runtime === 'os-sandbox') return [{ runtime, files, names: null }]
  if (runtime !== null && whole) return onOther(runtime, ofUser(casesOn(runtime), as))
  if (runtime !== null) return [{ runtime, files, names: anyCase(as) }]
  const own: Suite = { runtime: 'os-sandbox', files, names: null }
  if (!whole) return [own]
  return [own, ...(['container', 'microvm'] as const).flatMap((name) => onOther(name, IN_CI[name]))]
}

/** A file that names none of the cases need not be started to find that out. */
function holds(path: string, cases: readonly string[]): boolean {
  const text = readFileSync(path, 'utf8')
  return cases.some((entry) => text.includes(`'${entry.slice(0, 4)}'`))
}
