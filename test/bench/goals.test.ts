/** What the tables of goals say. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { goalOfAll } from '../../bench/figure.ts'

const atMostTwo = (values: readonly (number | null)[]) =>
  goalOfAll('at most 2 ×', values, (value) => value <= 2, ' ×')

test('a goal for several rows is met when all of them meet it', () => {
  assert.deepEqual(atMostTwo([1, 2]), { text: 'at most 2 ×', got: '1; 2 ×', met: true })
  assert.deepEqual(atMostTwo([1, 2.5]), { text: 'at most 2 ×', got: '1; 2.5 ×', met: false })
})

test('a row that was not measured leaves the goal open, unless another one misses it', () => {
  assert.equal(atMostTwo([1, null]).met, null)
  assert.equal(atMostTwo([1, null]).got, '1; not measured ×')
  assert.equal(atMostTwo([null, 3]).met, false)
})
