/** Attack cases against the view alone; test/cases runs them through the built command. */
import assert from 'node:assert/strict'
import { existsSync, linkSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { cannotRun, facts, inView, makeWorld, own, user } from './harness.ts'

const skip = cannotRun

const PROTECT = [
  '**/Library/LaunchAgents',
  '**/.git/hooks/**',
  '**/.git/config',
  '**/.claude/settings*.json',
  '**/.codex/**',
  '**/.bashrc',
]

test('F-01 writes outside the writable roots are refused; inside they arrive', { skip }, async (t) => {
  const world = makeWorld([{ access: 'read', files: { 'a.txt': 'a' } }, { access: 'write' }])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
for name, act in dict(
  create=lambda: put('0/new', 'x'), overwrite=lambda: put('0/a.txt', 'x'), unlink=lambda: os.unlink('0/a.txt'),
  rename=lambda: os.rename('0/a.txt', '0/b'), mkdir=lambda: os.mkdir('0/d'), chmod=lambda: os.chmod('0/a.txt', 0o777),
  symlink=lambda: os.symlink('x', '0/s'), truncate=lambda: os.truncate('0/a.txt', 0), utime=lambda: os.utime('0/a.txt', (1, 1)),
  xattr=lambda: os.setxattr('0/a.txt', 'user.x', b'y'), link=lambda: os.link('0/a.txt', '0/l'),
  top=lambda: put('new', 'x')).items():
    result[name] = attempt(act)
result['control'] = attempt(put, '1/new', 'x')
result['read'] = get('0/a.txt')
`,
  )
  const { control, read, ...refused } = result
  for (const [name, got] of Object.entries(refused))
    assert.ok(got === 'EROFS' || got === 'EACCES', `${name}: ${String(got)}`)
  assert.equal(control, 'ok')
  assert.equal(read, 'a')
  assert.equal(readFileSync(join(world.root(1), 'new'), 'utf8'), 'x')
  assert.deepEqual(
    [existsSync(join(world.root(0), 'new')), readFileSync(join(world.root(0), 'a.txt'), 'utf8')],
    [false, 'a'],
  )
  assert.ok(
    facts(world).some(
      (fact) => fact.k === 'file.denied' && fact.reason === 'read-only' && fact.path.endsWith('/a.txt'),
    ),
  )
})

test('F-02, F-03 a link to the outside is a link: the view never follows it', { skip }, async (t) => {
  const world = makeWorld([{ access: 'review' }, { access: 'write' }])
  t.after(() => world.remove())
  const secret = join(world.dir, 'secret')
  writeFileSync(secret, 'top secret')
  symlinkSync(secret, join(world.root(1), 'planted'))
  own(world.dir)
  // In a session the target has no name inside; here the kernel may follow, but no fact may claim the view served it.
  const result = await inView(
    world,
    `
result['type'] = stat.S_ISLNK(os.lstat('1/planted').st_mode)
result['nofollow'] = attempt(os.open, '1/planted', os.O_RDONLY | os.O_NOFOLLOW)
result['made'] = attempt(os.symlink, '/etc/passwd', '1/made')
result['target'] = os.readlink('1/made')
os.symlink('/etc', '0/dir')
result['listing'] = os.listdir('0')
`,
  )
  assert.deepEqual(result, {
    type: true,
    nofollow: 'ELOOP',
    made: 'ok',
    target: '/etc/passwd',
    listing: ['dir'],
  })
  assert.ok(!facts(world).some((fact) => fact.k === 'file.open'))
})

test('F-07 a hard link to something outside is refused, one with all names inside is not', {
  skip,
}, async (t) => {
  const world = makeWorld([{ access: 'write', hide: ['**/.env'], files: { '.env': 'KEY', 'a/one': 'fine' } }])
  t.after(() => world.remove())
  const outside = join(world.dir, 'outside')
  writeFileSync(outside, 'top secret')
  linkSync(outside, join(world.root(0), 'leak'))
  linkSync(join(world.root(0), '.env'), join(world.root(0), 'env-copy'))
  linkSync(join(world.root(0), 'a/one'), join(world.root(0), 'two'))
  own(world.dir)
  const result = await inView(
    world,
    `
result['leak'] = attempt(get, '0/leak')
result['hidden'] = attempt(get, '0/env-copy')
result['control'] = get('0/two')
result['write'] = attempt(put, '0/leak', 'x', os.O_WRONLY)
result['chmod'] = attempt(os.chmod, '0/leak', 0o777)
put('0/own', 'mine'); os.link('0/own', '0/own2')
result['own'] = get('0/own2')
put('0/own2', 'more', os.O_WRONLY)
result['again'] = get('0/own')
`,
  )
  assert.deepEqual(result, {
    leak: 'EACCES',
    hidden: 'EACCES',
    control: 'fine',
    write: 'EACCES',
    chmod: 'EACCES',
    own: 'mine',
    again: 'more',
  })
  assert.equal(readFileSync(outside, 'utf8'), 'top secret')
  assert.ok(facts(world).some((fact) => fact.k === 'file.denied' && fact.reason === 'hard-link'))
})

for (const access of ['write', 'review'] as const) {
  test(`F-08 to F-10, F-13, F-14 protected names stay as they are and cannot be made (${access})`, {
    skip,
  }, async (t) => {
    const deep = 'a/b/c/d'
    const world = makeWorld([
      {
        access,
        protect: PROTECT,
        files: {
          [`${deep}/.git/hooks/pre-commit`]: '#!hook',
          '.git/config': '[core]',
          '.git/HEAD': 'ref',
          'x/settings.json': '{}',
          'y/hooks/post': 'p',
        },
      },
    ])
    t.after(() => world.remove())
    const result = await inView(
      world,
      `
os.chdir('0')
hook = '${deep}/.git/hooks/pre-commit'
for name, act in dict(
  write=lambda: put(hook, 'x'), append=lambda: put(hook, 'x', os.O_WRONLY | os.O_APPEND), truncate=lambda: os.truncate(hook, 0),
  unlink=lambda: os.unlink(hook), chmod=lambda: os.chmod(hook, 0o777), xattr=lambda: os.setxattr(hook, 'user.a', b'b'),
  utime=lambda: os.utime(hook, (1, 1)),
  rename=lambda: os.rename(hook, 'z'), link=lambda: os.link(hook, 'z'), replace=lambda: (put('n', 'x'), os.rename('n', hook)),
  ancestor1=lambda: os.rename('${deep}/.git/hooks', '${deep}/.git/h'), ancestor2=lambda: os.rename('${deep}/.git', '${deep}/g'),
  ancestor3=lambda: os.rename('a', 'q'), new_hook=lambda: put('${deep}/.git/hooks/post-commit', 'x'),
  mkdir_beneath=lambda: os.mkdir('${deep}/.git/hooks/d'),
  config=lambda: put('.git/config', 'x'), case=lambda: put('.GIT/CONFIG', 'x'), mkdir_case=lambda: os.mkdir('.Git'),
  missing=lambda: put('.claude/settings.json', 'x'), parent=lambda: os.mkdir('.claude'), parent_deep=lambda: os.mkdir('x/.claude'),
  parent_link=lambda: os.symlink('x', '.codex'), parent_file=lambda: put('.codex', 'x'), move_to_parent=lambda: os.rename('x', '.claude'),
  move_to_git=lambda: os.rename('y', 'x/.git'), git_file=lambda: put('x/.git', 'gitdir: /elsewhere'),
  git_link=lambda: os.symlink('/elsewhere', 'y/.git'), dot=lambda: put('.bashrc.', 'x'), space=lambda: put('.bashrc ', 'x'),
  long_s=lambda: put('.ba\\u017fhrc', 'x'), fifo=lambda: os.mkfifo('.bashrc'), exchange=lambda: os.rename('x/settings.json', '.git/config'),
).items():
    result[name] = attempt(act)
control = {}
control['read'] = get(hook)
control['head'] = attempt(put, '.git/HEAD', 'x')
control['object'] = attempt(os.mkdir, '.git/objects')
control['rename'] = attempt(os.rename, 'x/settings.json', 'x/moved.json')
control['other'] = attempt(put, 'x/bashrc', 'x')
control['library'] = [attempt(os.mkdir, 'x/library'), attempt(os.mkdir, 'x/library/LaunchAgents'), attempt(os.symlink, 'y', 'y/library')]
control['intact'] = get(hook) == '#!hook' and get('.git/config') == '[core]'
result['control'] = control
`,
    )
    const { control, ...refused } = result
    for (const [name, got] of Object.entries(refused)) {
      const fine =
        name === 'case'
          ? ['EACCES', 'ENOENT']
          : name === 'missing'
            ? ['ENOENT', 'EACCES']
            : ['EACCES', 'EBUSY']
      assert.ok(fine.includes(got as string), `${name}: ${String(got)}`)
    }
    assert.deepEqual(control, {
      read: '#!hook',
      head: 'ok',
      object: 'ok',
      rename: 'ok',
      other: 'ok',
      library: ['ok', 'EACCES', 'EACCES'],
      intact: true,
    })
    assert.ok(facts(world).some((fact) => fact.k === 'file.denied' && fact.reason === 'protected'))
  })
}

test('F-09, F-14 what stands in for a protected directory stays, and so does what it leads to', {
  skip,
}, async (t) => {
  const world = makeWorld([
    {
      access: 'write',
      protect: PROTECT,
      files: {
        'decoy/config.toml': 'safe',
        'sub/.git': 'gitdir: ../store',
        'deep/a/b/c/d/e/decoy/x': 'x',
        'free/x': 'x',
      },
    },
  ])
  t.after(() => world.remove())
  symlinkSync('decoy', join(world.root(0), '.codex'))
  symlinkSync('./decoy', join(world.root(0), 'deep/a/b/c/d/e/.codex'))
  own(world.dir)
  const result = await inView(
    world,
    `
os.chdir('0'); time.sleep(0.3)
for name, act in dict(
  unlink=lambda: os.unlink('.codex'), rename=lambda: os.rename('.codex', 'x'), replace=lambda: (os.symlink('free', 'n'), os.rename('n', '.codex')),
  write=lambda: put('.codex/config.toml', 'evil'), direct=lambda: put('decoy/config.toml', 'evil'), new=lambda: put('decoy/new', 'evil'),
  move=lambda: os.rename('decoy', 'd2'), deep=lambda: put('deep/a/b/c/d/e/decoy/x', 'evil'),
  git_file=lambda: put('sub/.git', 'gitdir: /evil'), git_unlink=lambda: os.unlink('sub/.git'), git_chmod=lambda: os.chmod('sub/.git', 0o777),
).items(): result[name] = attempt(act)
result['control'] = [get('.codex/config.toml'), attempt(put, 'free/x', 'y'), get('sub/.git')]
`,
  )
  const { control, ...refused } = result
  for (const [name, got] of Object.entries(refused))
    assert.ok(got === 'EACCES' || got === 'EBUSY', `${name}: ${String(got)}`)
  assert.deepEqual(control, ['safe', 'ok', 'gitdir: ../store'])
})

test('F-12, F-23 a hidden name is not there, in any spelling, nor can it be made', { skip }, async (t) => {
  const world = makeWorld([
    {
      access: 'write',
      hide: ['**/.env', 'caf\u00e9.txt', 'private'],
      files: {
        '.env': 'KEY',
        'd/.env': 'KEY',
        'cafe\u0301.txt': 'KEY',
        'private/deep/file': 'KEY',
        'seen.txt': 'seen',
      },
    },
  ])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
os.chdir('0')
result['listing'] = sorted(os.listdir('.')) + os.listdir('d')
for name, path in dict(plain='.env', case='.ENV', deep='d/.env', nfc='caf\\u00e9.txt', nfd='cafe\\u0301.txt', dot='.env.', dots='./d/../.env', slashes='.//.env', beneath='private/deep/file').items():
    result[name] = [attempt(get, path), attempt(os.stat, path)]
for name, act in dict(create=lambda: put('.env', 'x'), create_absent=lambda: put('d2/.env', 'x'), case=lambda: put('.Env', 'x'),
  mkdir=lambda: os.mkdir('private'), link=lambda: os.symlink('x', '.env'), rename=lambda: os.rename('seen.txt', '.env'),
  hard=lambda: os.link('seen.txt', '.env'), exec=lambda: os.execv('.env', ['x']), unlink=lambda: os.unlink('.env'),
  rmdir=lambda: os.rmdir('d'), move=lambda: os.rename('d', 'e')).items():
    if name == 'create_absent': os.mkdir('d2')
    result['make_' + name] = attempt(act)
result['control'] = get('seen.txt')
`,
  )
  assert.deepEqual(result.listing, ['d', 'seen.txt'])
  for (const name of ['plain', 'case', 'deep', 'nfc', 'nfd', 'dot', 'dots', 'slashes', 'beneath'])
    assert.deepEqual(result[name], ['ENOENT', 'ENOENT'], name)
  for (const name of ['create', 'create_absent', 'case', 'mkdir', 'link', 'rename', 'hard'])
    assert.equal(result[`make_${name}`], 'EACCES', name)
  assert.equal(result.make_exec, 'ENOENT')
  assert.equal(result.make_unlink, 'ENOENT')
  assert.equal(result.make_rmdir, 'ENOTEMPTY')
  assert.equal(result.make_move, 'ok', 'the rule holds at the new place too')
  assert.equal(result.control, 'seen')
  assert.equal(readFileSync(join(world.root(0), 'e/.env'), 'utf8'), 'KEY')
})

test('a directory does not move where its hidden names would be seen', { skip }, async (t) => {
  const world = makeWorld([
    { access: 'write', hide: ['safe/key'], files: { 'safe/key': 'KEY', 'safe/other': 'o', 'free/x': 'x' } },
  ])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
result['refused'] = attempt(os.rename, '0/safe', '0/open')
result['into'] = attempt(put, '0/free/key', 'x'), attempt(os.rename, '0/free', '0/safe2')
result['listing'] = os.listdir('0/safe')
`,
  )
  assert.deepEqual(result, { refused: 'EACCES', into: ['ok', 'ok'], listing: ['other'] })
})

test('F-15 a name swapped between file and link never shows another object', { skip }, async (t) => {
  const world = makeWorld([
    { access: 'write', hide: ['secret'], files: { secret: 'top secret', a: 'harmless' } },
  ])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
import threading
os.chdir('0')
done = False
def swap():
    while not done:
        for act in (lambda: os.rename('a', 'b'), lambda: os.symlink('secret', 'a'), lambda: os.unlink('a'), lambda: os.rename('b', 'a')): attempt(act)
thread = threading.Thread(target=swap); thread.start()
seen, opened = set(), 0
end = time.time() + 2; last = end + 60
while time.time() < end or (opened <= 100 and time.time() < last):
    try:
        seen.add(get('a')); opened += 1
    except OSError: pass
done = True; thread.join()
result['seen'] = sorted(seen); result['enough'] = opened > 100
`,
  )
  assert.deepEqual(result, { seen: ['harmless'], enough: true })
})

test('F-18 no side door to a protected, hidden or read-only file', { skip }, async (t) => {
  const world = makeWorld([
    { access: 'write', protect: ['**/locked'], files: { locked: 'locked', free: 'free' } },
  ])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
import fcntl, ctypes
os.chdir('0')
reader = os.open('locked', os.O_RDONLY)
free = os.open('free', os.O_RDWR)
result['ftruncate'] = attempt(os.ftruncate, reader, 0)
result['fallocate'] = attempt(os.posix_fallocate, reader, 0, 10)
result['copy'] = attempt(os.copy_file_range, free, reader, 4)
result['clone'] = attempt(fcntl.ioctl, reader, 0x40049409, free)
result['flags'] = attempt(fcntl.ioctl, free, 0x40086602, b'\\x10\\0\\0\\0\\0\\0\\0\\0')
result['fchmod'] = attempt(os.fchmod, reader, 0o777)
result['fsetxattr'] = attempt(os.setxattr, reader, 'user.a', b'b')
result['acl'] = attempt(os.setxattr, 'free', 'system.posix_acl_access', b'x')
result['trusted'] = attempt(os.setxattr, 'free', 'security.capability', b'x')
result['proc'] = attempt(lambda: os.open('/proc/self/fd/%d' % reader, os.O_WRONLY))
result['device'] = attempt(os.mknod, 'dev', stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.chmod('free', 0o6755)
result['setuid'] = oct(os.stat('free').st_mode & 0o7777)
result['controls'] = [attempt(os.ftruncate, free, 2), attempt(os.posix_fallocate, free, 0, 100), attempt(os.copy_file_range, reader, free, 6),
  attempt(os.setxattr, 'free', 'user.a', b'b'), attempt(os.mkfifo, 'fifo'), attempt(lambda: socket.socket(socket.AF_UNIX).bind('sock'))]
result['intact'] = get('locked')
`,
  )
  const { controls, intact, setuid, ...refused } = result
  for (const [name, got] of Object.entries(refused)) assert.notEqual(got, 'ok', name)
  assert.deepEqual(controls, ['ok', 'ok', 'ok', 'ok', 'ok', 'ok'])
  assert.deepEqual([intact, setuid], ['locked', '0o755'])
})

test('F-23 df, stat and mounts name nothing of the host', { skip }, async (t) => {
  const world = makeWorld([{ access: 'write', files: { a: 'a' } }])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
result['mount'] = [l for l in open('/proc/mounts') if l.startswith('ambit ')][0]
s = os.stat('0/a'); result['owner'] = [s.st_uid, s.st_gid]
result['top'] = [sorted(os.listdir('.')), attempt(os.mkdir, 'x'), attempt(os.stat, '1'), attempt(os.stat, '00')]
`,
  )
  assert.ok(!(result.mount as string).includes(world.root(0)))
  assert.deepEqual(result.owner, [1000, 1000])
  assert.deepEqual(result.top, [['0'], 'EACCES', 'ENOENT', 'ENOENT'])
})

test('the quota ends growth, is recorded once, and gives back what is deleted', { skip }, async (t) => {
  const world = makeWorld([{ access: 'write' }], { bytes: 4 << 20, inodes: 20 })
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
os.chdir('0')
def fill():
    with open('big', 'wb') as f:
        for _ in range(64): f.write(b'x' * 131072); f.flush()
result['bytes'] = attempt(fill)
os.unlink('big'); time.sleep(0.2)
result['again'] = attempt(put, 'small', 'x' * 1000)
result['inodes'] = [attempt(put, 'f%d' % i, 'x') for i in range(25)].count('EDQUOT') > 0
`,
  )
  assert.deepEqual(result, { bytes: 'EDQUOT', again: 'ok', inodes: true })
  assert.equal(facts(world).filter((fact) => fact.k === 'file.denied' && fact.reason === 'quota').length, 1)
})

test('what happens is on record, in order, with digests', { skip }, async (t) => {
  const world = makeWorld([{ access: 'write', files: { 'read.txt': 'hello' } }])
  t.after(() => world.remove())
  await inView(
    world,
    `
os.chdir('0')
get('read.txt'); time.sleep(0.2); get('read.txt')
put('new', 'content'); os.rename('new', 'moved'); os.unlink('moved'); os.mkdir('dir')
os.close(os.open('read.txt', os.O_RDWR))
put(os.fsdecode(b'bad\\xff\\\\name'), 'x')
for _ in range(50): attempt(os.mkdir, 'dir/../../nowhere/x'); attempt(os.unlink, 'nothing')
`,
  )
  const short = facts(world).map((fact) => {
    const { t: _t, m: _m, ...rest } = fact as unknown as Record<string, unknown>
    for (const key of ['path', 'to'])
      if (typeof rest[key] === 'string') rest[key] = (rest[key] as string).slice(world.root(0).length)
    return rest
  })
  const content = 'ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73'
  const hello = '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824'
  const has = (want: Record<string, unknown>) =>
    assert.ok(
      short.some((fact) => Object.entries(want).every(([key, value]) => fact[key] === value)),
      JSON.stringify(want),
    )
  has({ k: 'file.open', path: '/read.txt', mode: 'read', size: 5, sha256: null, label: 'internal' })
  has({ k: 'file.hash', path: '/read.txt', sha256: hello })
  has({ k: 'file.open', path: '/read.txt', mode: 'read', sha256: hello })
  assert.equal(
    short.filter((fact) => fact.k === 'file.open' && fact.mode === 'read').length,
    3,
    'opening to write and read is a read',
  )
  has({ k: 'file.create', path: '/new', type: 'file' })
  has({ k: 'file.write', path: '/new', size: 7, sha256: content })
  has({ k: 'file.rename', path: '/new', to: '/moved' })
  has({ k: 'file.delete', path: '/moved' })
  has({ k: 'file.create', path: '/dir', type: 'dir' })
  has({ k: 'file.write', path: '/bad\\xff\\\\name' })
  const at = (k: string) => short.findIndex((fact) => fact.k === k && fact.path !== '/read.txt')
  assert.ok(
    at('file.create') < at('file.open') &&
      at('file.open') < at('file.write') &&
      at('file.write') < at('file.rename'),
  )
})

test('equal refusals are bounded on record, and counted', { skip }, async (t) => {
  const world = makeWorld([{ access: 'read', files: { a: 'a' } }])
  t.after(() => world.remove())
  await inView(world, `for _ in range(500): attempt(os.unlink, '0/a')`)
  const denied = facts(world).filter((fact) => fact.k === 'file.denied') as { count?: number }[]
  assert.ok(denied.length < 20, `${denied.length} records`)
  assert.equal(
    denied.reduce((sum, fact) => sum + (fact.count ?? 1), 0),
    500,
  )
})

test('nested roots keep their names', { skip }, async (t) => {
  const world = makeWorld([
    {
      access: 'write',
      hide: ['**/secret'],
      nested: ['in/secret/place'],
      files: { 'in/secret/place/x': 'x', 'in/secret/other': 'o' },
    },
  ])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
os.chdir('0')
result['seen'] = [os.listdir('in/secret'), attempt(get, 'in/secret/other')]
result['moves'] = [attempt(os.rename, 'in', 'out'), attempt(os.rename, 'in/secret', 'in/s'), attempt(os.rmdir, 'in/secret/place')]
`,
  )
  assert.deepEqual(result, { seen: [['place'], 'ENOENT'], moves: ['EBUSY', 'EBUSY', 'EBUSY'] })
})

test("the view of another uid shows nobody's files as nobody's", {
  skip: skip || (process.getuid?.() !== 0 && 'needs root to make a foreign file'),
}, async (t) => {
  const world = makeWorld([{ access: 'write' }])
  t.after(() => world.remove())
  writeFileSync(join(world.root(0), 'foreign'), 'x', { mode: 0o600 })
  assert.notEqual(user.uid, 0)
  const result = await inView(
    world,
    `result['owner'] = os.stat('0/foreign').st_uid; result['read'] = attempt(get, '0/foreign')`,
  )
  assert.deepEqual(result, { owner: 65534, read: 'EACCES' })
})
