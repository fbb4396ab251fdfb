import assert from 'node:assert/strict'
import { test } from 'node:test'
import { printable, printableJson } from '../../src/lib/printable.ts'

const HOSTILE = 'a\u001b[2J\u009b31m\u202egnp.\u200b\u{e0041}\ud800\u007f"\\u0041\n'

test('H-04, H-06, H-07: nothing that moves, hides or reorders text is left', () => {
  for (const shown of [printable(HOSTILE), printableJson(JSON.stringify(HOSTILE))])
    assert.match(shown, /^[\x20-\x7e]*$/)
})

test('H-04: JSON stays the same value, and other text stays as it is', () => {
  assert.equal(JSON.parse(printableJson(JSON.stringify(HOSTILE))), HOSTILE)
  const plain = JSON.stringify({ name: 'Übersicht 表 😀', list: [1] }, null, 2)
  assert.equal(printableJson(plain), plain)
})
