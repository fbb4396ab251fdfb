import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EXPECTED } from './catalogue.ts'
import { PUBLISHED } from './published.ts'

test('what was published of others is tried by cases that there are, or says why not', () => {
  for (const { product, what, here } of PUBLISHED) {
    if (typeof here === 'string') assert.ok(here.length > 10, `${product}: ${what}`)
    else for (const id of here) assert.ok(id in EXPECTED, `${product}: ${what}: no case ${id}`)
  }
  const told = PUBLISHED.map(({ product, what }) => `${product}: ${what}`)
  assert.equal(new Set(told).size, told.length, 'each once')
})
