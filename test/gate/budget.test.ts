import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UploadBudget } from '../../src/gate/budget.ts'

const limits = { perRequest: 100, perMinute: 250, perSession: 1000 }

test('X-08: a request, a minute and a session each have their end', () => {
  const budget = new UploadBudget(limits)
  assert.equal(budget.charge(100, 0, 0), null)
  assert.equal(budget.charge(1, 100, 0), 'upload.per-request')
  assert.equal(budget.charge(100, 0, 1000), null)
  assert.equal(budget.charge(51, 0, 2000), 'upload.per-minute')
  assert.equal(budget.charge(50, 0, 2000), null)
  assert.equal(budget.session, 250)
})

test('X-08: the minute rolls: what was sent leaves it second by second', () => {
  const budget = new UploadBudget(limits)
  for (const second of [0, 1, 2]) assert.equal(budget.charge(80, 0, second * 1000), null)
  assert.equal(budget.charge(80, 0, 59_999), 'upload.per-minute')
  assert.equal(budget.charge(80, 0, 60_000), null)
  assert.equal(budget.charge(80, 0, 60_999), 'upload.per-minute')
  assert.equal(budget.charge(80, 0, 61_000), null)
  assert.equal(budget.charge(80, 0, 500_000), null)
})

test('X-08: many small requests reach the end of the session all the same', () => {
  const budget = new UploadBudget(limits)
  let sent = 0
  for (let minute = 0; minute < 100; minute++) if (budget.charge(99, 0, minute * 61_000) === null) sent += 99
  assert.equal(sent, 990)
  assert.equal(budget.charge(11, 0, 10_000_000), 'upload.per-session')
})

test('A-14: a clock that goes back grants nothing', () => {
  const budget = new UploadBudget(limits)
  assert.equal(budget.charge(100, 0, 100_000), null)
  assert.equal(budget.charge(100, 0, 100_000), null)
  assert.equal(budget.charge(100, 0, 0), 'upload.per-minute')
})

test('what is refused is not counted', () => {
  const budget = new UploadBudget(limits)
  assert.equal(budget.charge(1000, 0, 0), 'upload.per-request')
  assert.equal(budget.session, 0)
})
