/** The channel between the supervisor and `ambit-view` (docs/architecture.md, "View protocol"). */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { ViewStats } from '../../src/view/view.ts'
import { cannotRun, facts, makeWorld, user } from './harness.ts'

test('startView serves, counts, refuses a bad spec in words, and stops', { skip: cannotRun }, async (t) => {
  const world = makeWorld([{ access: 'write', hide: ['**/.env'] }])
  t.after(() => world.remove())
  const mount = `
import ctypes, os
fd = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other'
assert ctypes.CDLL(None, use_errno=True).mount(b'ambit', ${JSON.stringify(world.mount)}.encode(), b'fuse', 6, options.encode()) == 0
os.set_inheritable(fd, True)
os.execv(${JSON.stringify(process.execPath)}, ['node', ${JSON.stringify(join(import.meta.dirname, 'protocol-session.ts'))}, ${JSON.stringify(world.dir)}, str(fd)])
`
  const child = spawn('unshare', ['-Urm', 'python3', '-c', mount], {
    stdio: ['ignore', 'pipe', 'inherit'],
    uid: user.uid,
    gid: user.gid,
    cwd: '/',
  })
  let out = ''
  for await (const chunk of child.stdout) out += String(chunk)
  const result = JSON.parse(out) as {
    listing: string[]
    refused: string
    stats: ViewStats
    exited: object
    broken: [string, string]
  }
  assert.deepEqual(result.listing, ['new'])
  assert.equal(result.refused, 'EACCES')
  assert.deepEqual([result.stats.writes, result.stats.inodesAdded], [1, 1])
  assert.ok(result.stats.denied >= 1 && result.stats.bytesAdded > 0)
  assert.deepEqual(result.exited, { code: 0, signal: null, why: null })
  assert.equal(result.broken[0], 'ERR_RUNTIME_FAILED')
  assert.match(result.broken[1], /root 0 .*nowhere.*No such file/)
  assert.ok(facts(world).some((fact) => fact.k === 'file.write' && fact.path.endsWith('/new')))
  assert.equal(statSync(join(world.dir, 'started.json')).mode & 0o777, 0o600)
})
