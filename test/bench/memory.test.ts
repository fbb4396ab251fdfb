/** The bench's account of memory does not depend on what else runs on the machine. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { familyOf, held, type Mapping, mappingsOf } from '../../bench/memory.ts'

const page = (pid: number, more: Partial<Mapping>): Mapping => ({
  pid,
  file: null,
  size: 4096,
  share: 0,
  own: 0,
  shared: 0,
  ...more,
})

test('pages of a file count in full though a stranger has them, and once though two of the session do', () => {
  const file = '08:01 7'
  const alone = page(1, { file, share: 4096, own: 4096 })
  const besideAStranger = page(1, { file, share: 2048, shared: 4096 })
  assert.equal(held([alone]), 4096)
  assert.equal(held([besideAStranger]), 4096)
  assert.equal(held([besideAStranger, { ...besideAStranger, pid: 2 }]), 4096)
  assert.equal(held([besideAStranger, { ...besideAStranger, pid: 2, file: '08:01 8' }]), 8192)
})

test('what forked processes still share of their own memory counts once', () => {
  const shared = { share: 2048, shared: 4096 }
  assert.equal(held([page(1, shared), page(2, shared)]), 4096)
})

test('a process holds what the kernel says is resident, and belongs to who started it', async (t) => {
  const child = spawn('cat', { stdio: ['pipe', 'pipe', 'ignore'] })
  t.after(() => child.kill())
  child.stdin.write('it has loaded what it needs')
  await once(child.stdout, 'data')
  const pid = child.pid ?? -1
  assert.ok(familyOf([process.pid]).includes(pid))
  assert.deepEqual(familyOf([pid]), [pid])
  const kilobytes = /^Rss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]
  const resident = Number(kilobytes) * 1024
  assert.ok(resident > 0)
  const got = held(mappingsOf(pid))
  assert.ok(Math.abs(got - resident) < 64 * 1024, `${got} beside ${resident}`)
})
