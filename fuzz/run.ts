/** `./dev fuzz [NAME] [--seconds N] [--seed N]`: one target, or each in turn. A finding is kept under fuzz/crashes. */
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { fuzz } from './fuzz.ts'
import { fuzzLive } from './live.ts'
import { LIVE_TARGETS } from './live-targets.ts'
import { TARGETS } from './targets.ts'

const { values, positionals } = parseArgs({
  options: { seconds: { type: 'string', default: '60' }, seed: { type: 'string' } },
  allowPositionals: true,
})
const seed = Number(values.seed ?? Date.now() % 2 ** 31)
const ALL = [...Object.keys(TARGETS), ...Object.keys(LIVE_TARGETS)]
const names = positionals.length > 0 ? positionals : ALL
let failed = false
for (const name of names) {
  const [target, start] = [TARGETS[name], LIVE_TARGETS[name]]
  if (!target && !start) {
    console.error(`fuzz: no target ${name}; there are ${ALL.join(', ')}`)
    process.exit(2)
  }
  const ms = Number(values.seconds) * 1000
  const live = await start?.()
  const { runs, finding } = live
    ? await fuzzLive(name, live, ms, seed)
    : fuzz(name, target as NonNullable<typeof target>, ms, seed)
  const reached = live ? `, ${live.reached()} messages got through` : ''
  await live?.close()
  console.log(`${finding ? '✗' : '✓'} ${name}: ${runs} inputs${reached}, seed ${seed}`)
  if (!finding) continue
  failed = true
  const dir = join(import.meta.dirname, 'crashes', name)
  mkdirSync(dir, { recursive: true })
  const file = join(dir, createHash('sha256').update(finding.input).digest('hex').slice(0, 16))
  writeFileSync(file, finding.input)
  console.log(`  ${String(finding.error)}\n  kept as ${file}`)
}
process.exit(failed ? 1 : 0)
