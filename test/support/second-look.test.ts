/** Which failures count of a file that ran twice. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Outcome } from './results.ts'
import { disturbed, settle } from './second-look.ts'

const FILE = 'test/x.test.ts'
const one = (name: string, state: Outcome['state'], ms = 1): Outcome => ({
  file: FILE,
  name,
  state,
  reason: '',
  ms,
})
const passed = (name: string): Outcome => one(name, 'passed')
const failed = (name: string): Outcome => one(name, 'failed')

/** Names of what fails in the end, and of what is unsteady. */
function judged(first: readonly Outcome[], again: readonly Outcome[]): [string[], string[]] {
  const { outcomes, unsteady } = settle(first, again)
  return [
    outcomes.filter(({ state }) => state === 'failed').map(({ name }) => name),
    unsteady.map(({ name }) => name),
  ]
}

test('a test that fails both times has failed', () => {
  const ran = [passed('a'), failed('b')]
  assert.deepEqual(judged(ran, ran), [['b'], []])
})

test('two tests that each fail once are unsteady, and counted as passed', () => {
  const first = [passed('a'), failed('b')]
  const again = [failed('a'), passed('b')]
  assert.deepEqual(judged(first, again), [[], ['b', 'a']])
  assert.deepEqual(
    settle(first, again).outcomes.map(({ state }) => state),
    ['passed', 'passed'],
  )
})

test('a file that died once is unsteady; what it did not reach then must pass', () => {
  const died = [failed(`/somewhere/${FILE}`)]
  assert.deepEqual(judged(died, [passed('a')]), [[], [`/somewhere/${FILE}`]])
  assert.deepEqual(judged(died, [failed('a')]), [['a'], [`/somewhere/${FILE}`]])
})

test('a file that dies the second time has failed, with all that failed in it', () => {
  const died = failed(`/somewhere/${FILE}`)
  assert.deepEqual(judged([passed('a'), failed('b')], [failed('a'), died]), [['a', died.name, 'b'], []])
})

test('a failure is not mended by a skip, nor by a test that is gone', () => {
  assert.deepEqual(judged([failed('a')], [one('a', 'skipped')]), [['a'], []])
  assert.deepEqual(judged([failed('a')], [passed('b')]), [['a'], []])
})

test('of two tests with one name, neither hides the other', () => {
  assert.deepEqual(judged([passed('a'), failed('a')], [failed('a'), passed('a')]), [['a'], []])
})

test('what other files did stays', () => {
  const other: Outcome = { ...failed('c'), file: 'test/y.test.ts' }
  assert.deepEqual(judged([other, failed('a')], [passed('a')]), [['c'], ['a']])
})

test('looks again at up to fifteen files that took up to twenty minutes', () => {
  const files = (n: number): Outcome[] =>
    Array.from({ length: n }, (_, i) => ({ ...failed('a'), file: `test/${i}.test.ts` }))
  assert.deepEqual(disturbed([passed('a')]), [])
  assert.equal(disturbed(files(15)).length, 15)
  assert.equal(disturbed(files(16)).length, 0)
  assert.equal(disturbed([one('a', 'failed', 1_200_000)]).length, 1)
  assert.equal(disturbed([one('a', 'failed', 1_200_000), passed('b')]).length, 0)
})
