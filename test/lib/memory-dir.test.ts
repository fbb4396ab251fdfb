/** A session's directory in shared memory, where other accounts make names, too. */
import assert from 'node:assert/strict'
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { isMemory, makeMemoryDir, removeMemoryDir } from '../../src/lib/memory-dir.ts'
import { memoryDir } from '../../src/lib/paths.ts'

const skip = isMemory('/dev/shm') ? false : 'no shared memory here'
const id = `s00000000-${process.pid}`

test('is made private, and removed with what is in it', { skip }, () => {
  const dir = makeMemoryDir(id)
  assert.equal(dir, memoryDir(id))
  assert.equal(statSync(dir).mode & 0o777, 0o700)
  writeFileSync(join(dir, 'file'), '')
  removeMemoryDir(id)
  assert.ok(!existsSync(dir))
})

test('a name that somebody has taken is neither used nor followed nor removed', { skip }, () => {
  const elsewhere = mkdtempSync(join(tmpdir(), 'ambit-memory-'))
  writeFileSync(join(elsewhere, 'file'), '')
  symlinkSync(elsewhere, memoryDir(id))
  assert.throws(() => makeMemoryDir(id), /EEXIST/)
  removeMemoryDir(id)
  assert.ok(existsSync(join(elsewhere, 'file')))
  rmSync(memoryDir(id))
  rmSync(elsewhere, { recursive: true })
})

const asRoot = skip || (process.getuid?.() === 0 ? false : 'only root can make what another account has')
test('what belongs to another account stays: it could change while it is being removed', {
  skip: asRoot,
}, () => {
  const dir = memoryDir(id)
  mkdirSync(dir)
  writeFileSync(join(dir, 'file'), '')
  chownSync(dir, 65534, 65534)
  removeMemoryDir(id)
  assert.ok(existsSync(join(dir, 'file')))
  chownSync(dir, 0, 0)
  removeMemoryDir(id)
  assert.ok(!existsSync(dir))
})
