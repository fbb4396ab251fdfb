/** The channel between the supervisor and `ambit-view` (docs/architecture.md, "View protocol"). */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { ViewStats } from '../../src/view/view.ts'
import { cannotRun, facts, makeWorld, user, type World } from './harness.ts'

/** What `script` prints, run in a namespace of its own, where the view is to be mounted and `tiny` has 64 KiB. */
async function inNamespace(world: World, script: string, ...args: readonly string[]): Promise<string> {
  mkdirSync(join(world.dir, 'tiny'))
  const mount = `
import ctypes, os, sys
fd = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other'
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b'ambit', ${JSON.stringify(world.mount)}.encode(), b'fuse', 6, options.encode()) == 0
assert libc.mount(b'tiny', ${JSON.stringify(join(world.dir, 'tiny'))}.encode(), b'tmpfs', 6, b'size=64k') == 0
os.set_inheritable(fd, True)
os.execv(${JSON.stringify(process.execPath)}, ['node', ${JSON.stringify(join(import.meta.dirname, script))}, ${JSON.stringify(world.dir)}, str(fd), *sys.argv[1:]])
`
  const child = spawn('unshare', ['-Urm', 'python3', '-c', mount, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    uid: user.uid,
    gid: user.gid,
    cwd: '/',
  })
  let out = ''
  for await (const chunk of child.stdout) out += String(chunk)
  return out
}

for (const how of ['stop', 'unmount'])
  test(`a view whose journal is full says so, also where its end comes by ${how}`, {
    skip: cannotRun,
  }, async (t) => {
    const world = makeWorld([{ access: 'write' }])
    t.after(() => world.remove())
    const { refused, exited } = JSON.parse(await inNamespace(world, 'protocol-full.ts', how))
    assert.ok(['EIO', 'ECONNABORTED', 'ENOTCONN'].includes(refused), refused)
    assert.equal(exited.code, 1)
    assert.match(exited.why, /^its journal cannot be written: No space left on device/)
  })

test('startView serves, counts, refuses a bad spec in words, and stops', { skip: cannotRun }, async (t) => {
  const world = makeWorld([{ access: 'write', hide: ['**/.env'] }])
  t.after(() => world.remove())
  const result = JSON.parse(await inNamespace(world, 'protocol-session.ts')) as {
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
