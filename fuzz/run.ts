/** `./dev fuzz [NAME] [--seconds N] [--seed N]`: one target, or each in turn. A finding is kept under fuzz/crashes. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { makeDir } from '../src/lib/make-dir.ts'
import { messageOf } from '../src/lib/errors.ts'
import { ATTESTATION_TARGETS } from './attestation-targets.ts'
import { fuzz } from './fuzz.ts'
import { fuzzLive } from './live.ts'
import { LIVE_TARGETS } from './live-targets.ts'
import { TARGETS as PARSERS } from './targets.ts'

const TARGETS = { ...PARSERS, ...ATTESTATION_TARGETS }
/** Fuzzed in Rust → the crate whose tests hold the target. */
const NATIVE: Readonly<Record<string, string>> = {
  'terminal-filter': 'ambit-launch',
  'launch-orders': 'ambit-launch',
  'launch-spec': 'ambit-launch',
  'machine-news': 'ambit-launch',
  'machine-frames': 'ambit-launch',
  'guest-trace': 'ambit-launch',
  tpm: 'ambit-launch',
  'journal-prefix': 'ambit-shared',
  'spec-and-orders': 'ambit-view',
  'names-and-settings': 'ambit-view',
  'review-layer': 'ambit-view',
  requests: 'ambit-view',
  'guest-stream': 'ambit-view',
}

const { values, positionals } = argumentsOf()
const seed = Number(values.seed ?? Date.now() % 2 ** 31)
const ALL = [...Object.keys(TARGETS), ...Object.keys(LIVE_TARGETS), ...Object.keys(NATIVE)]
if (values.help) {
  console.log(`usage: ./dev fuzz [NAME…] [--seconds N] [--seed N]

Each target runs for N seconds (60). Findings are kept under fuzz/crashes; run again with the same seed for the same
inputs.

targets: ${ALL.join(', ')}`)
  process.exit(0)
}
const names = positionals.length > 0 ? positionals : ALL
let failed = false
for (const name of names) {
  const crate = NATIVE[name]
  if (crate) {
    failed = !fuzzNative(name, crate) || failed
    continue
  }
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
  makeDir(dir, 0o777)
  const file = join(dir, createHash('sha256').update(finding.input).digest('hex').slice(0, 16))
  writeFileSync(file, finding.input)
  console.log(`  ${String(finding.error)}\n  kept as ${file}`)
}
process.exit(failed ? 1 : 0)

function argumentsOf(): ReturnType<typeof parse> {
  try {
    return parse()
  } catch (error) {
    console.error(`fuzz: ${messageOf(error).split('. ')[0]}; see ./dev fuzz --help`)
    process.exit(2)
  }
}

function parse() {
  const { values, positionals } = parseArgs({
    options: {
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
    allowPositionals: true,
  })
  for (const name of ['seconds', 'seed'] as const)
    if (!/^\d{0,9}$/.test(values[name] ?? '')) throw new Error(`--${name} wants a whole number`)
  return { values, positionals }
}

/** A target of the Rust parts: a test of its crate (src/fuzz.rs) that keeps its findings itself. */
function fuzzNative(name: string, crate: string): boolean {
  const test = `fuzz_${name.replaceAll('-', '_')}`
  const { status } = spawnSync(
    'cargo',
    ['test', '--quiet', '--locked', '-p', crate, test, '--', '--nocapture'],
    {
      cwd: join(import.meta.dirname, '../native'),
      env: { ...process.env, AMBIT_FUZZ_SECONDS: values.seconds, AMBIT_FUZZ_SEED: String(seed) },
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  )
  console.log(`${status === 0 ? '✓' : '✗'} ${name}`)
  return status === 0
}
