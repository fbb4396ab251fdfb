/**
 * Not in every run: a view killed while it has the kernel forget a name leaves callers in the kernel
 * (docs/threat-model.md). A view that is killed: whatever of the session's work is on the disk is on record.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { nativeBinary } from '../../src/lib/paths.ts'
import { listChanges, reviewLayers } from '../../src/view/review.ts'
import { cannotRun, facts, makeWorld, user, type World } from './harness.ts'
import { lookAt, missing } from './killed.ts'

const noStrace = ['/usr/bin/strace', '/bin/strace'].some((path) => existsSync(path)) ? false : 'no strace'
const WORKERS = ['w0', 'w1', 'w2']
const FILES = Object.fromEntries(
  WORKERS.flatMap((worker) =>
    ['a', 'b', 'd/a', 'd/b', 'e/a'].map((name) => [`${worker}/${name}`, `${worker} ${name}`]),
  ),
)

/** Changes names and content until the view is gone; the first argument is the worker's directory, the second a seed. */
const WORK = `
import ctypes, errno, os, random, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1] + '/0/' + sys.argv[2])
r = random.Random(sys.argv[3])
def path(): return '/'.join(r.choice('abcde') for _ in range(r.choice([1, 2, 2, 3])))
def spill(p, flags):
    fd = os.open(p, flags | os.O_NONBLOCK, 0o644)
    os.write(fd, b'x' * r.randrange(100))
    os.close(fd)
for n in range(int(sys.argv[4])):
    p, q = path(), path()
    act = r.choice([
        lambda: spill(p, os.O_WRONLY | os.O_CREAT), lambda: spill(p, os.O_WRONLY | os.O_TRUNC),
        lambda: spill(p, os.O_RDWR | os.O_APPEND), lambda: os.truncate(p, 3), lambda: os.unlink(p),
        lambda: os.mkdir(p), lambda: os.rmdir(p), lambda: os.rename(p, q), lambda: os.rename(p, q),
        lambda: libc.renameat2(-100, p.encode(), -100, q.encode(), 2), lambda: os.symlink(q, p),
        lambda: os.chmod(p, r.choice([0o700, 0o755])), lambda: os.utime(p, (1, 1)), lambda: os.mkfifo(p),
        lambda: os.setxattr(p, 'user.a', b'x')])
    try: act()
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED): break
`

/** Runs the workers in the view, which `prefix` starts; `kill` may end it. */
async function work(
  world: World,
  seed: string,
  steps: number,
  kill?: number,
  prefix: readonly string[] = [],
) {
  const workers = WORKERS.map(
    (worker) => `timeout 30 python3 -c "$0" ${world.mount} ${worker} ${seed}${worker} ${steps} &`,
  )
  const mount = [nativeBinary('ambit-view'), 'mount', world.specPath, world.mount, '--']
  const command = [...prefix, ...mount, 'sh', '-c', `${workers.join(' ')} wait`, WORK]
  const child = spawn(command[0] as string, command.slice(1), {
    stdio: 'ignore',
    uid: user.uid,
    gid: user.gid,
    env: { PATH: process.env.PATH, LANG: 'C.UTF-8' },
    cwd: '/',
  })
  const ended = new Promise<boolean>((resolve) =>
    child.once('exit', (code, signal) => resolve(signal === 'SIGKILL' || code === 137)),
  )
  if (kill !== undefined) {
    const begun = Date.now() + 10_000
    while (facts(world).length === 0 && Date.now() < begun) await new Promise((go) => setTimeout(go, 2))
    await new Promise((go) => setTimeout(go, kill))
    child.kill('SIGKILL')
  }
  // The workers end by themselves: their next call finds no view.
  return await ended
}

async function proves(t: TestContext, access: 'write' | 'review', run: (world: World) => Promise<unknown>) {
  const world = makeWorld([{ access, files: FILES }])
  t.after(() => world.remove())
  const before = lookAt(world.root(0))
  await run(world)
  const record = facts(world)
  if (access === 'write') {
    assert.deepEqual(missing(before, record, world.root(0)), [])
    return record.length
  }
  assert.deepEqual(lookAt(world.root(0)), before, 'what is under review does not touch the host')
  const named = record.flatMap((fact) =>
    'path' in fact ? [fact.path, ...('to' in fact && fact.to ? [fact.to] : [])] : [],
  )
  for (const { path } of await listChanges(reviewLayers(world.spec))) {
    const full = join(world.root(0), path)
    // What lies beneath a directory that moved is named by it.
    const told = named.some(
      (name) => name === full || full.startsWith(`${name}/`) || name.startsWith(`${full}/`),
    )
    assert.ok(told, `${path} is not on record`)
  }
  return record.length
}

test('A-18 of a view that is left in peace the record gives the tree', { skip: cannotRun }, async (t) => {
  const count = await proves(t, 'write', (world) => work(world, 'whole', 400))
  assert.ok((count ?? 0) > 200, `${count} facts`)
})

for (const access of ['write', 'review'] as const)
  test(`A-18 what a killed view did is on record, whenever it was killed (${access})`, {
    skip: cannotRun,
  }, async (t) => {
    for (let n = 0; n < 8; n++) await proves(t, access, (world) => work(world, `kill${n}`, 100_000, n * 11))
  })

test('A-18 killed at any write of its record, the view has done nothing that is not on it', {
  skip: cannotRun || noStrace,
}, async (t) => {
  let killed = 0
  for (const nth of [2, 3, 4, 6, 9, 14, 21, 32])
    await proves(t, 'write', async (world) => {
      const trace = ['strace', '-f', '-o', '/dev/null', '-P', world.spec.journal, '-e', 'trace=write', '-e']
      killed += Number(
        await work(world, `nth${nth}`, 60, undefined, [...trace, `inject=write:signal=SIGKILL:when=${nth}`]),
      )
    })
  assert.ok(killed >= 4, `killed ${killed} times`)
})
