import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ATTESTATION_TARGETS } from '../../fuzz/attestation-targets.ts'
import { fuzz } from '../../fuzz/fuzz.ts'
import { TARGETS } from '../../fuzz/targets.ts'

const SECONDS = 0.7

for (const [name, target] of Object.entries({ ...TARGETS, ...ATTESTATION_TARGETS })) {
  test(`fuzzing ${name} finds nothing in ${SECONDS} s`, () => {
    const seed = Date.now() % 2 ** 31
    const { finding } = fuzz(name, target, SECONDS * 1000, seed)
    const input = finding?.input.toString('hex').slice(0, 400)
    assert.equal(finding, null, `seed ${seed}, input ${input}: ${String(finding?.error)}`)
  })
}

test('the fuzzer finds a planted fault: it can fail', () => {
  const planted = { seeds: [Buffer.from('abc')], run: (input: Buffer) => assert.ok(!input.includes(0xff)) }
  assert.notEqual(fuzz('planted', planted, 2000, 7).finding, null)
})
