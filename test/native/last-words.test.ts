/** A process that ends inside V8 or an allocator says one line and ends with 125; Node's own words help nobody. */
import assert from 'node:assert/strict'
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '../..')
const KEEP = `require(${JSON.stringify(join(root, '.build/native.node'))}).keepLastWords();`
const HEAP = `const all = []; for (;;) all.push(new Array(10_000).fill(String(all.length)))`

const node = (script: string, ...flags: readonly string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [...flags, '-e', script], { encoding: 'utf8', timeout: 60_000 })

/** How a process that has no heap left ends. */
const SMALL = '--max-old-space-size=20'

test('no heap left: one line, 125', () => {
  const bare = node(HEAP, SMALL)
  assert.equal(bare.signal, 'SIGABRT', 'control: without it, a signal')
  assert.match(bare.stderr, /FATAL ERROR[\s\S]*heap out of memory/, "control: and Node's words")
  const ran = node(KEEP + HEAP, SMALL)
  assert.equal(ran.status, 125, ran.stderr)
  assert.match(
    ran.stderr,
    /^ambit: no memory was left for it[^\n]*: free some memory, [^\n]* \[ERR_RUNTIME_FAILED\]\n$/,
  )
})

test('an end that is no lack of memory is not called one', () => {
  for (const script of [
    'process.abort()',
    "process.kill(process.pid, 'SIGSEGV'); setTimeout(() => 0, 9e3)",
  ]) {
    const ran = node(KEEP + script)
    assert.equal(ran.status, 125, ran.stderr)
    assert.match(ran.stderr, /^ambit: it failed inside and ended[^\n]*AMBIT_DEBUG=1 \[ERR_INTERNAL\]\n$/)
  }
})

test('what Node says and survives, or says at an ordinary end, is still said', () => {
  const thrown = node(`${KEEP} setTimeout(() => { throw new Error('nobody caught it') })`)
  assert.equal(thrown.status, 1)
  assert.match(thrown.stderr, /Error: nobody caught it/)
  const said = node(
    `${KEEP} process.emitWarning('careful'); console.error('plain'); process._rawDebug('raw')`,
  )
  assert.equal(said.status, 0)
  for (const word of ['careful', 'plain', 'raw']) assert.match(said.stderr, new RegExp(word))
})

test('what it starts ends as any program does', () => {
  const abort = `${KEEP} const ran = require('node:child_process').spawnSync('/bin/sh', ['-c', 'kill -ABRT $$']); console.log(ran.signal)`
  assert.equal(node(abort).stdout, 'SIGABRT\n')
})
