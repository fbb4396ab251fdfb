import assert from 'node:assert/strict'
import { globSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { makeDir } from '../../src/lib/make-dir.ts'

const dir = mkdtempSync(join(tmpdir(), 'ambit-make-dir-'))
after(() => rmSync(dir, { recursive: true }))

test('makes what is missing, private, and says what it made', () => {
  const deep = join(dir, 'a/b/c')
  assert.deepEqual(makeDir(deep), [join(dir, 'a'), join(dir, 'a/b'), deep])
  assert.equal(statSync(join(dir, 'a')).mode & 0o777, 0o700)
  assert.deepEqual(makeDir(deep), [])
})

test('where there can be no names it fails, and does not try for ever', () => {
  for (const place of ['/proc/ambit/x/y', '/proc/self/ambit/x', '/dev/null/x/y'])
    assert.throws(() => makeDir(place), { code: /^(ENOENT|ENOTDIR)$/ })
  symlinkSync(join(dir, 'nowhere'), join(dir, 'dangling'))
  assert.throws(() => makeDir(join(dir, 'dangling/x')), { code: 'ENOENT' })
})

test('nothing of Ambit has Node make directories by itself', () => {
  const root = join(import.meta.dirname, '../..')
  const files = globSync(['src/**/*.ts', 'bench/**/*.ts', 'fuzz/**/*.ts'], { cwd: root })
  assert.ok(files.length > 200)
  const uses = (text: string): boolean => /\bmkdir(Sync)?\((?:[^()]|\([^()]*\))*\brecursive\b/.test(text)
  assert.ok(uses("mkdirSync(join(a, 'b'), { recursive: true })"), 'control')
  assert.deepEqual(
    files.filter((file) => uses(readFileSync(join(root, file), 'utf8'))),
    [],
  )
})
