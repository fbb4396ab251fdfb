import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fuzzLive } from '../../fuzz/live.ts'
import { LIVE_TARGETS } from '../../fuzz/live-targets.ts'
import { withoutPrograms } from '../support/programs.ts'

const SECONDS = 3

/** A comparison needs somebody else's server. */
const lacking = (name: string): string | null =>
  name === 'http1-differential' && withoutPrograms('go') ? withoutPrograms('python3') : null

for (const [name, start] of Object.entries(LIVE_TARGETS)) {
  test(`fuzzing ${name} at a running gate finds nothing in ${SECONDS} s`, {
    skip: lacking(name) ?? false,
  }, async () => {
    const target = await start()
    const seed = Date.now() % 2 ** 31
    const { finding } = await fuzzLive(name, target, SECONDS * 1000, seed)
    const reached = target.reached()
    await target.close()
    const input = finding?.input.toString('latin1').slice(0, 800)
    assert.equal(finding, null, `seed ${seed}, input ${JSON.stringify(input)}: ${String(finding?.error)}`)
    assert.ok(reached > 0, 'control: something got through')
  })
}

test('the fuzzer of a running gate finds a planted fault: it can fail', async () => {
  const run = async (inputs: readonly Buffer[]): Promise<void> =>
    assert.ok(!inputs.some((input) => input.includes(0xff)))
  const planted = { seeds: [Buffer.from('abc')], run, reached: () => 0, close: async () => undefined }
  const { finding } = await fuzzLive('planted', planted, 2000, 7)
  assert.ok(finding?.input.includes(0xff))
})
