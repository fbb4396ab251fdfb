/** A test file that stays alive when its tests are done ends with its limit, and the run goes on. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { processesWith } from './processes.ts'
import type { Outcome } from './results.ts'

const support = (name: string): string => JSON.stringify(join(import.meta.dirname, name))

/** A run as test/run.ts makes it. */
const RUN = (files: readonly string[], dir: string): string => `
import { run } from 'node:test'
import { limitFiles } from ${support('file-limit.ts')}
import { watch } from ${support('results.ts')}
const files = ${JSON.stringify(files)}
const stop = limitFiles(files, (file) => file.endsWith('hangs.test.mjs') ? 6000 : 600_000, (file, ms) => console.log('killed', file, ms))
const outcomes = await watch(run({ files, concurrency: 2, timeout: 1000, execArgv: [] }), ${JSON.stringify(dir)}, 600_000)
stop()
console.log(JSON.stringify(outcomes))`

const HANGS = (mark: string): string => `
import { spawn } from 'node:child_process'
import { test } from 'node:test'
test('passes', () => {})
process.on('SIGTERM', () => {})
setInterval(() => {}, 1000)
spawn('sleep', ['1000'], { env: { ...process.env, MARK: '${mark}' }, stdio: 'ignore' })
spawn('sh', ['-c', 'sleep 1000 & exit'], { env: { ...process.env, MARK: '${mark}' }, stdio: 'inherit', detached: true })`

const ENDS = `
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
test('ends', () => {})
await sleep(10_000)`

test('a file that does not end is killed with all that it started, and others are left alone', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-limit-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const files = ['hangs.test.mjs', 'ends.test.mjs'].map((name) => join(dir, name))
  writeFileSync(files[0] ?? '', HANGS(dir))
  writeFileSync(files[1] ?? '', ENDS)
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined }
  const script = join(dir, 'run.mjs')
  writeFileSync(script, RUN(files, dir))
  const { status, stdout, stderr } = spawnSync(process.execPath, [script], {
    env,
    encoding: 'utf8',
    timeout: 60_000,
    killSignal: 'SIGKILL',
  })
  const left = processesWith(dir)
  for (const pid of left) process.kill(pid, 'SIGKILL')
  assert.equal(status, 0, stdout + stderr)
  assert.deepEqual(left, [])
  const lines = stdout.trim().split('\n')
  assert.deepEqual(
    lines.filter((line) => line.startsWith('killed')),
    [`killed ${files[0]} 6000`],
  )
  const outcomes = JSON.parse(lines.at(-1) ?? '') as readonly Outcome[]
  assert.deepEqual(outcomes.map(({ file, state }) => `${file} ${state}`).sort(), [
    'ends.test.mjs passed',
    'hangs.test.mjs failed',
    'hangs.test.mjs passed',
  ])
})
