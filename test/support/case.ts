/** Tests of one catalogued attack, named so that the runner can make the case table from them. */
import { appendFileSync } from 'node:fs'
import { test } from 'node:test'
import type { RuntimeName } from '../../src/profile/plan.ts'
import { NOT_ON } from '../cases/runtimes.ts'
import { RUNTIME, withoutRuntime } from './runtime.ts'
import { type As, unavailable } from './users.ts'

/** Environment variable with the file to which cases append what they saw; set by test/run.ts. */
export const OBSERVED = 'AMBIT_TEST_OBSERVED'

const VARIANTS: readonly As[] = ['user', 'root']

export interface Observation {
  readonly id: string
  readonly as: As
  readonly runtime: RuntimeName
  readonly got: string
}

/**
 * One case, once as an ordinary user and once as root. `body` resolves with a few words on what was seen; they
 * become the table's "got".
 */
export const attack = attackIn(null)

/**
 * The same for cases that need something of the machine: `missing` is the reason to skip them, or null. In a suite of
 * another runtime, what cannot apply there is no test; the table case × runtime says why.
 */
export function attackIn(missing: string | null) {
  const reason = missing ?? withoutRuntime(RUNTIME)
  return (id: string, title: string, body: (as: As) => Promise<string>): void => {
    if (RUNTIME !== 'os-sandbox' && id in NOT_ON[RUNTIME]) return
    for (const as of VARIANTS)
      test(`${id} ${as}: ${title}`, { skip: reason ?? unavailable(as) ?? false }, async () => {
        observe({ id, as, runtime: RUNTIME, got: await body(as) })
      })
  }
}

function observe(observation: Observation): void {
  const file = process.env[OBSERVED]
  // O_APPEND: several test processes share the file, a line is one write.
  if (file) appendFileSync(file, `${JSON.stringify(observation)}\n`)
}

/** Makes a value once per key, on first use: several tests share one session, each for its own kind of user. */
export function once<K, V>(make: (key: K) => Promise<V>): (key: K) => Promise<V> {
  const made = new Map<K, Promise<V>>()
  return (key) => {
    let value = made.get(key)
    if (!value) made.set(key, (value = make(key)))
    return value
  }
}
