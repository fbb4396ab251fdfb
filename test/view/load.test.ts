/** Many files, a dying server, and the protocol with the supervisor. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { nativeBinary } from '../../src/lib/paths.ts'
import { cannotRun, facts, inView, makeWorld, own, user } from './harness.ts'

const skip = cannotRun

test('more directories than descriptors, as 42,000 inodes are under a limit of 20,000', {
  skip,
}, async (t) => {
  const world = makeWorld([{ access: 'write', hide: ['**/.env'] }])
  t.after(() => world.remove())
  for (let dir = 0; dir < 600; dir++) {
    const path = join(world.root(0), `p${dir % 7}`, `d${dir}`)
    mkdirSync(path, { recursive: true })
    for (let file = 0; file < 5; file++) writeFileSync(join(path, `f${file}`), '')
  }
  own(world.dir)
  const script = `
held = os.open('0/p0/d0', os.O_RDONLY)
for turn in range(2): count = sum(len(dirs) + len(files) for base, dirs, files in os.walk('0'))
result['count'] = count
result['held'] = sorted(os.listdir(held))
most = 0
for base, dirs, files in os.walk('0'):
    for name in files: os.stat(os.path.join(base, name))
    most = max(most, len(os.listdir('/proc/%d/fd' % os.getppid())))
result['few'] = most < 100
os.rename('0/p6', '0/q6')
put('0/q6/d6/new', 'x'); result['deep'] = get('0/q6/d594/../d6/new')
`
  const result = await inView(world, script, 128)
  assert.deepEqual(result, { count: 3607, held: ['f0', 'f1', 'f2', 'f3', 'f4'], few: true, deep: 'x' })
})

test('a tree as a package manager writes it', { skip }, async (t) => {
  const world = makeWorld([{ access: 'write', review: ['package.json'] }])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
import shutil
os.chdir('0')
for p in range(40):
    base = 'node_modules/.p%d-x/lib/deep' % p
    os.makedirs(base)
    for f in range(10): put(base + '/f%d.js' % f, 'x' * (f * 700))
    put('node_modules/.p%d-x/package.json' % p, '{}'); os.chmod(base + '/f1.js', 0o755)
    os.rename('node_modules/.p%d-x' % p, 'node_modules/p%d' % p)
os.mkdir('node_modules/.bin'); os.symlink('../p1/lib/deep/f1.js', 'node_modules/.bin/p1')
result['link'] = len(get('node_modules/.bin/p1')), os.access('node_modules/.bin/p1', os.X_OK)
result['files'] = sum(len(f) for _, _, f in os.walk('node_modules'))
shutil.rmtree('node_modules/p2')
result['removed'] = os.path.exists('node_modules/p2')
import mmap
with open('map', 'w+b') as f:
    f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[0:5] = b'hello'; m.flush(); m.close()
result['mmap'] = get('map')[:5]
with open('log', 'a') as a, open('log', 'a') as b:
    a.write('one\\n'); a.flush(); b.write('two\\n'); b.flush()
result['append'] = get('log')
import sqlite3
db = sqlite3.connect('db.sqlite'); db.execute('pragma journal_mode=wal'); db.execute('create table t(x)'); db.executemany('insert into t values(?)', [(i,) for i in range(100)]); db.commit()
result['sqlite'] = db.execute('select count(*) from t').fetchone()[0]
`,
  )
  assert.deepEqual(result, {
    link: [700, true],
    files: 441,
    removed: false,
    mmap: 'hello',
    append: 'one\ntwo\n',
    sqlite: 100,
  })
  assert.equal(readFileSync(join(world.root(0), 'node_modules/p1/lib/deep/f3.js'), 'utf8').length, 2100)
})

test("the host's own changes are seen within a second or so", { skip }, async (t) => {
  const world = makeWorld([{ access: 'write', files: { a: 'first' } }])
  t.after(() => world.remove())
  const running = inView(
    world,
    `
result['first'] = get('0/a')
put('0/ready', 'x')
end = time.time() + 8
while time.time() < end and (get('0/a') != 'second version' or not os.path.exists('0/b')): time.sleep(0.05)
result['second'] = get('0/a'); result['made'] = os.path.exists('0/b')
`,
  )
  const ready = join(world.root(0), 'ready')
  while (!facts(world).some((fact) => fact.k === 'file.create' && fact.path === ready))
    await new Promise((resolve) => setTimeout(resolve, 50))
  writeFileSync(join(world.root(0), 'a'), 'second version')
  writeFileSync(join(world.root(0), 'b'), 'new')
  assert.deepEqual(await running, { first: 'first', second: 'second version', made: true })
})

test('F-21 when the view is killed, calls fail and the raw tree never shows', { skip }, async (t) => {
  const world = makeWorld([{ access: 'write', hide: ['**/.env'], files: { a: 'a', '.env': 'KEY' } }])
  t.after(() => world.remove())
  const script = `
import os, errno, signal, json, time
os.chdir(${JSON.stringify(world.mount)})
held = open('0/a'); before = held.read()
os.kill(os.getppid(), signal.SIGKILL); time.sleep(0.3)
def attempt(act):
    try: act(); return 'ok'
    except OSError as e: return errno.errorcode[e.errno]
got = [before] + [attempt(a) for a in (lambda: open('0/a').read(), lambda: os.listdir('0'), lambda: open('0/.env'), lambda: os.open('0/n', os.O_CREAT | os.O_WRONLY), lambda: os.stat('0/.env'))]
print(json.dumps(got))
`
  const child = spawn(
    nativeBinary('ambit-view'),
    ['mount', world.specPath, world.mount, '--', 'python3', '-c', script],
    { stdio: ['ignore', 'pipe', 'inherit'], uid: user.uid, gid: user.gid },
  )
  let out = ''
  for await (const chunk of child.stdout) out += String(chunk)
  const [before, ...after] = JSON.parse(out) as string[]
  assert.equal(before, 'a')
  for (const got of after) assert.ok(got === 'ENOTCONN' || got === 'ECONNABORTED' || got === 'EIO', got)
})

test('a journal that cannot be written ends the view, and nothing happens unrecorded', {
  skip,
}, async (t) => {
  const world = makeWorld([{ access: 'write' }])
  t.after(() => world.remove())
  // A file size limit stops the journal's growth; the signal is ignored, so the write fails.
  const script = `
import os, errno, json, time
os.chdir(${JSON.stringify(world.mount)} + '/0')
last = -1; got = 'ok'
for i in range(2000):
    try: os.mkdir('d%d' % i); last = i
    except OSError as e:
        got = errno.errorcode[e.errno]; break
time.sleep(0.3)
try: os.mkdir('later'); later = 'ok'
except OSError as e: later = errno.errorcode[e.errno]
print(json.dumps([got, later, last]))
`
  const limited = `import resource, signal, os; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); os.execv(${JSON.stringify(nativeBinary('ambit-view'))}, ['ambit-view', 'mount', ${JSON.stringify(world.specPath)}, ${JSON.stringify(world.mount)}, '--', 'python3', '-c', ${JSON.stringify(script)}])`
  const child = spawn('python3', ['-c', limited], {
    stdio: ['ignore', 'pipe', 'ignore'],
    uid: user.uid,
    gid: user.gid,
  })
  let out = ''
  for await (const chunk of child.stdout) out += String(chunk)
  const [got, later, last] = JSON.parse(out) as [string, string, number]
  assert.equal(got, 'EIO')
  assert.ok(['EIO', 'ENOTCONN', 'ECONNABORTED'].includes(later), later)
  const made = facts(world).filter((fact) => fact.k === 'file.create').length
  assert.equal(made, last + 1)
})

test('a directory that may be read and not searched is synced', { skip }, async (t) => {
  const world = makeWorld([{ access: 'write', files: { 'd/a': 'a' } }])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
os.chmod('0/d', 0o644)
fd = os.open('0/d', os.O_RDONLY | os.O_DIRECTORY)
result['sync'] = attempt(os.fsync, fd)
os.chmod('0/d', 0o755)
`,
  )
  assert.deepEqual(result, { sync: 'ok' })
})

test('a burst of files shares its durable intents; each file is on record', { skip }, async (t) => {
  const world = makeWorld([{ files: { 'a/b/x': '' } }])
  t.after(() => world.remove())
  await inView(
    world,
    `
for i in range(600): put('0/a/b/f%d' % i, 'text')
put('0/a/other', 'text')
`,
  )
  const all = facts(world)
  const written = (path: string): number =>
    all.findIndex((fact) => fact.k === 'file.write' && fact.path === path)
  const intents = all.flatMap((fact, at) => (fact.k === 'file.intent' ? [{ ...fact, at }] : []))
  const [first] = intents
  assert.deepEqual([first?.path, first?.files], [join(world.root(0), 'a/b'), 256])
  assert.ok(intents.length >= 3 && intents.length < 100, `${intents.length} intents for 600 files`)
  // The first two waited for themselves; from then on each write has an intent before it that is not used up. Closes
  // that an intent covers are recorded behind them, some perhaps behind the next intent.
  let covered = 2
  let next = 0
  for (let i = 0; i < 600; i++) {
    const at = written(join(world.root(0), `a/b/f${i}`))
    assert.ok(at >= 0, `f${i} is not on record`)
    while (next < intents.length && (intents[next]?.at ?? 0) < at)
      covered += 1 + (intents[next++]?.files ?? 0)
    assert.ok(covered-- > 0, `f${i} was written without an intent`)
  }
  const other = written(join(world.root(0), 'a/other'))
  const wider = intents.findLast(({ at }) => at < other)
  assert.equal(
    wider?.path,
    join(world.root(0), 'a'),
    'what is not beneath the directory has an intent of its own',
  )
})
