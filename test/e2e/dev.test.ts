/** The developer's command says how it is used before it does anything, and what is wrong in one line. */
import assert from 'node:assert/strict'
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '../..')

const dev = (...args: readonly string[]): SpawnSyncReturns<string> =>
  spawnSync(join(root, 'dev'), args, { encoding: 'utf8', timeout: 20_000 })

test('--help of each command is its usage', () => {
  for (const name of ['build', 'test', 'bench', 'lint', 'fmt'])
    for (const help of ['--help', '-h']) {
      const { status, stdout, stderr } = dev(name, help)
      assert.equal(status, 0, `${name}: ${stderr}`)
      assert.match(stdout, new RegExp(`^usage: \\./dev ${name}`))
      assert.equal(stderr, '')
    }
  const overview = dev('--help')
  assert.equal(overview.status, 0)
  assert.match(overview.stdout, /^usage: \.\/dev COMMAND/)
})

test('what is wrong is one line that says where to look', () => {
  const programs = (file: string, ...args: readonly string[]): SpawnSyncReturns<string> =>
    spawnSync(process.execPath, [file, ...args], { cwd: root, encoding: 'utf8', timeout: 20_000 })
  for (const ran of [
    dev('lint', 'src'),
    dev('fmt', '--all'),
    // What `./dev` starts once all is built.
    programs('test/run.ts', '--al'),
    programs('test/run.ts', '--runtime', 'vm'),
    programs('bench/run.ts', 'speed'),
    programs('fuzz/run.ts', '--second', '1'),
    programs('fuzz/run.ts', '--seconds', 'soon'),
  ]) {
    assert.equal(ran.status, 2, ran.stdout + ran.stderr)
    assert.match(ran.stderr, /^(dev|test|bench|fuzz): [^\n]+; see \.\/dev \w+ --help\n$/)
    assert.equal(ran.stdout, '')
  }
})
