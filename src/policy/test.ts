/** Runs the `test_*` rules of `*_test.rego`, as `opa test` does: a test passes when its rule is true. */
import type { Paths } from '../lib/paths.ts'
import { openPolicies, policyMessage } from './engine.ts'

export interface PolicyTest {
  /** `data.ambit.admission_test.test_allows_reader`. */
  readonly name: string
  readonly passed: boolean
  /** Why it did not pass. */
  readonly why: string | null
}

/** @throws AmbitError ERR_POLICY_INVALID when the modules cannot be loaded. */
export function runPolicyTests(paths: Paths): PolicyTest[] {
  const engine = openPolicies(paths, { tests: true })
  return engine
    .rules()
    .filter((rule) => /\.test_[^.]*$/.test(rule))
    .map((name) => {
      try {
        const value = engine.evalRule(name, '{}')
        const passed = value !== null && JSON.parse(value) === true
        return { name, passed, why: passed ? null : value === null ? 'undefined' : `is ${value}` }
      } catch (error) {
        return { name, passed: false, why: policyMessage(error) }
      }
    })
}
