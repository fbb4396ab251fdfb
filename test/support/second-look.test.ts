/** Which failures count of a file that ran twice. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { caseTable } from './case-table.ts'
import type { Outcome } from './results.ts'
import { runtimeTable } from './runtime-table.ts'
import { disturbed, oweAnother, settle, unsteadyText } from './second-look.ts'

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

/** The runs that a file gets, and what its outcomes say in the end. */
function ran(first: readonly Outcome[], ...then: (readonly Outcome[])[]): [number, string[]] {
  const looks: (readonly Outcome[])[] = []
  for (let files: readonly string[] = [FILE]; files.length > 0; files = oweAnother(first, looks))
    looks.push(then[looks.length] ?? [])
  return [looks.length, settle(first, looks).outcomes.map(({ name, state }) => `${name} ${state}`)]
}

/** Names of what fails in the end, and of what is unsteady. */
function judged(first: readonly Outcome[], again: readonly Outcome[]): [string[], string[]] {
  const { outcomes, unsteady } = settle(first, [again])
  return [
    outcomes.filter(({ state }) => state === 'failed').map(({ name }) => name),
    unsteady.map(({ name }) => name),
  ]
}

test('a test that fails both times has failed', () => {
  const both = [passed('a'), failed('b')]
  assert.deepEqual(judged(both, both), [['b'], []])
})

test('two tests that each fail once are unsteady, and not counted as passed', () => {
  const first = [passed('a'), failed('b')]
  const again = [failed('a'), passed('b')]
  assert.deepEqual(judged(first, again), [[], ['b', 'a']])
  assert.deepEqual(
    settle(first, [again]).outcomes.map(({ state }) => state),
    ['unsteady', 'unsteady'],
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
  assert.deepEqual(judged([passed('a'), failed('a')], [failed('a'), passed('a')]), [['a', 'a'], []])
})

test('what other files did stays', () => {
  const other: Outcome = { ...failed('c'), file: 'test/y.test.ts' }
  assert.deepEqual(judged([other, failed('a')], [passed('a')]), [['c'], ['a']])
})

test('a case that failed once is unsteady after three clean runs in a row, and failed before them', () => {
  const id = 'F-15 user: a race'
  const [bad, good] = [[failed(id)], [passed(id)]]
  assert.deepEqual(ran(bad, good, good, good), [3, [`${id} unsteady`]])
  assert.deepEqual(ran(bad, good, good, bad), [3, [`${id} failed`]])
  assert.deepEqual(ran(bad, good, bad), [2, [`${id} failed`]])
  assert.deepEqual(ran(bad, bad), [1, [`${id} failed`]])
  assert.deepEqual(ran(bad, good, good, [one(id, 'skipped')]), [3, [`${id} failed`]])
  assert.deepEqual(
    settle(bad, [good, good]).outcomes.map(({ state }) => state),
    ['failed'],
  )
})

test('a case that passed beside others and fails alone has failed', () => {
  const id = 'F-15 user: a race'
  assert.deepEqual(ran([passed(id), failed('b')], [failed(id), passed('b')]), [
    1,
    [`${id} failed`, 'b unsteady'],
  ])
})

test('cases that never failed hold, also where another test of their file is unsteady', () => {
  const id = 'F-15 user: a race'
  const good = [passed(id), passed('b')]
  assert.deepEqual(ran([passed(id), failed('b')], good), [1, [`${id} passed`, 'b unsteady']])
})

test('cases that a dying file kept back run three times, and are unsteady', () => {
  const id = 'F-15 user: a race'
  const died = [failed(`/somewhere/${FILE}`)]
  const good = [passed(id), passed('b')]
  assert.deepEqual(ran(died, good, good, good), [3, [`${id} unsteady`, 'b passed']])
  assert.deepEqual(ran(died, good, died), [2, [`${died[0]?.name} failed`]])
  assert.deepEqual(ran(died, [passed('b')]), [1, ['b passed']])
})

test('the table of cases never says of an unsteady case that it held, and the text has what it said', () => {
  const outcomes = [
    { ...one('F-15 user: a race', 'unsteady'), reason: 'read the secret' },
    one('F-15 root: a race', 'passed'),
  ]
  const row = (text: string): string => text.split('\n').find((line) => line.startsWith('F-15')) ?? ''
  assert.match(
    row(caseTable(outcomes, [{ id: 'F-15', as: 'user', runtime: 'os-sandbox', got: 'EACCES' }])),
    /unsteady +held$/,
  )
  const ran = outcomes.map((outcome) => ({ runtime: 'os-sandbox' as const, outcome }))
  assert.match(row(runtimeTable(ran, true)), /unsteady/)
  assert.doesNotMatch(row(runtimeTable(ran, true)), /held/)
  assert.match(unsteadyText(outcomes.slice(0, 1)), /UNSTEADY .*F-15 user: a race\n +read the secret/)
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
