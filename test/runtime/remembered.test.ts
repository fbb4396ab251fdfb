/** An answer is kept under what it depends on, and a file that holds something else is no answer. */
import assert from 'node:assert/strict'
import { readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { remembered } from '../../src/runtime/remembered.ts'
import { World } from '../profile/support.ts'

test('an answer is recalled under its key alone, until it is forgotten', () => {
  using world = new World()
  const { paths } = world
  const [answer, other] = [remembered('probe', z.boolean()), remembered('another', z.boolean())]
  assert.equal(answer.recall(paths, 'a'), null)
  assert.equal(answer.keep(paths, 'a', false), false)
  assert.equal(answer.recall(paths, 'a'), false)
  assert.equal(answer.recall(paths, 'b'), null)
  assert.equal(other.recall(paths, 'a'), null)
  const dir = join(paths.state, 'cache')
  assert.deepEqual(readdirSync(dir), ['probe.json'], 'nothing is left aside')
  assert.equal(statSync(join(dir, 'probe.json')).mode & 0o777, 0o600)
  for (const torn of ['', '{"key":"a"', '{"key":"a","answer":"yes"}', '{"key":"a","answer":true,"more":1}']) {
    writeFileSync(join(dir, 'probe.json'), torn)
    assert.equal(answer.recall(paths, 'a'), null, torn)
  }
  answer.keep(paths, 'a', true)
  answer.forget(paths)
  answer.forget(paths)
  assert.equal(answer.recall(paths, 'a'), null)
})
