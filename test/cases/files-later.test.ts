/** F: what changes while the session runs. Names made meanwhile, races, a grant that shrinks. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { attack } from '../support/case.ts'
import { eventually } from '../support/processes.ts'
import { meanwhile, PRELUDE } from '../support/meanwhile.ts'
import { describe, Stage, type Step } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const SECRET = 'the content that is taken away'

attack('F-11', 'a name made after the start is protected or hidden like any', async (as) => {
  const stage = new Stage(as, { files: { 'plain.txt': 'plain' } })
  const host = (): void => {
    stage.put(stage.project, {
      '.env': SECRET,
      '.claude/settings.json': 'the user made it',
      'deep/er/.vscode/tasks.json': 'the user made it',
      'late.txt': 'free',
    })
  }
  const { result, said } = await meanwhile(
    stage,
    `
result['before'] = attempt(put, '.claude/settings.json'), attempt(os.mkdir, '.claude'), attempt(os.path.exists, '.env')
tell('ready'); wait('go')
result['hidden'] = attempt(get, '.env')
result['listed'] = '.env' in os.listdir('.')
result['claude'] = attempt(put, '.claude/settings.json'), attempt(put, '.claude/settings.local.json')
result['tasks'] = attempt(put, 'deep/er/.vscode/tasks.json'), attempt(os.rename, 'deep/er', 'deep/gone')
result['control'] = attempt(put, 'late.txt')
`,
    async () => host(),
  )
  assert.deepEqual(result.claude, ['EACCES', 'EACCES'], said)
  assert.deepEqual(result.tasks, ['EACCES', 'EBUSY'], said)
  assert.deepEqual([result.hidden, result.listed, result.control], ['ENOENT', false, 'ok'], said)
  assert.equal(readFileSync(join(stage.project, '.claude/settings.json'), 'utf8'), 'the user made it')
  return 'hidden and protected at once, at any depth'
})

attack('F-16', 'a denied file is not read under another name while it is renamed', async (as) => {
  const race = `
result['leaks'], result['renamed'], result['seen'] = 0, 0, 0
tell('ready'); wait('go')
libc = ctypes.CDLL(None, use_errno=True)
over = time.monotonic() + 1
def rename():
    while time.monotonic() < over:
        for a, b, flags in (('.env', 'x.txt', 0), ('.env', 'plain.txt', 2), ('dir/secret.pem', 'dir/x.txt', 0), ('x.txt', '.env', 0), ('dir', 'other', 0), ('other', 'dir', 0)):
            if libc.renameat2(-100, a.encode(), -100, b.encode(), flags) == 0 and a != 'x.txt': result['renamed'] += a in ('.env', 'dir/secret.pem')
        try: os.link('.env', 'linked.txt')
        except OSError: pass
def read():
    while time.monotonic() < over:
        for name in ('x.txt', 'plain.txt', 'dir/x.txt', 'other/x.txt', 'linked.txt', '.env'):
            try:
                result['seen'] += 1
                if b'taken away' in get(name): result['leaks'] += 1
            except OSError: pass
threads = [threading.Thread(target=act) for act in (rename, read, read)]
[t.start() for t in threads]; [t.join() for t in threads]
`
  const files = { '.env': SECRET, 'dir/secret.pem': SECRET, 'plain.txt': 'plain' }
  const held = new Stage(as, { files })
  const { result, said } = await meanwhile(held, race, async () => undefined)
  assert.equal(result.leaks, 0, said)
  assert.equal(result.renamed, 0, said)
  assert.equal(readFileSync(join(held.project, '.env'), 'utf8'), SECRET)
  const free = new Stage(as, { files: { 'secret.txt': SECRET, 'plain.txt': 'plain' } })
  const control = await meanwhile(free, race.replaceAll('.env', 'secret.txt'), async () => undefined)
  assert.ok(Number(control.result.leaks) > 0, control.said)
  return `no leak in ${String(result.seen)} opens; ${String(control.result.leaks)} without the rule`
})

/** On the host: what the names mean changes 100,000 times while they are looked up and opened. */
const SWAP = `
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
swaps = sum(libc.renameat2(-100, a, -100, b, 2) == 0 for _ in range(50000) for a, b in ((b'x', b'y'), (b'd', b'e')))
print(swaps)
`
const LOOK = `
result['leaks'], result['plain'], result['opens'] = 0, 0, 0
def look():
    over = False
    while not over:
        # Once more when the host is done: a busy machine may have given this thread no turn before.
        over = os.path.exists(os.path.join(space, 'go'))
        for name in ('x', 'd/f', 'y', 'e/f') * 20:
            result['opens'] += 1
            try: got = get(name)
            except OSError: continue
            result['leaks'] += b'taken away' in got
            result['plain'] += b'plain' in got
tell('ready')
threads = [threading.Thread(target=look) for _ in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]
`

attack('F-15', 'nothing outside is read while names turn from file to link and back', async (as) => {
  const make = (): Stage => {
    const stage = new Stage(as, { files: { x: 'plain', 'd/f': 'plain' } })
    stage.put(stage.outside, { secret: SECRET, f: SECRET })
    symlinkSync(join(stage.outside, 'secret'), join(stage.project, 'y'))
    symlinkSync(stage.outside, join(stage.project, 'e'))
    stage.own()
    return stage
  }
  const swap = async (stage: Stage): Promise<void> => {
    const ran = await stage.command(['python3', '-c', SWAP, stage.project], { timeout: 200_000 })
    assert.equal(ran.stdout.trim(), '100000', describe(ran))
  }
  const held = make()
  const { result, said } = await meanwhile(held, LOOK, () => swap(held), { timeout: 240_000 })
  assert.equal(result.leaks, 0, said)
  assert.ok(Number(result.plain) > 0, `control: the names are read\n${said}`)
  const free = make()
  free.put(free.project, { 'script.py': `${PRELUDE}\n${LOOK}\nprint(result['leaks'])` })
  free.put(free.outside, { 'space/': '' })
  const reading = free.command(['python3', 'script.py', join(free.outside, 'space')], { timeout: 240_000 })
  await eventually(() => existsSync(join(free.outside, 'space/ready')), 120_000)
  await swap(free)
  writeFileSync(join(free.outside, 'space/go'), '')
  assert.ok(Number((await reading).stdout) > 0, 'control: without the view it is read')
  return `100,000 swaps, no leak in ${String(result.opens)} opens`
})

const OPENED = `
fd = os.open('secret.txt', os.O_RDONLY)
writing = os.open('kept.txt', os.O_RDWR)
folder = os.open('folder', os.O_RDONLY | os.O_DIRECTORY)
deep = os.open('folder/secret.txt', os.O_RDONLY)
mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
shared = mmap.mmap(writing, 0)
os.pread(fd, 100, 0); mapped[:4]; shared[:4]; os.listdir('folder'); os.stat('secret.txt')
def touch():
    # A fault on a page that may not be read any more ends the process.
    child = os.fork()
    if child == 0:
        mapped[0]; os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
tell('ready'); wait('go')
result['read'] = attempt(os.pread, fd, 100, 0)
result['deep'] = attempt(os.pread, deep, 100, 0)
result['signal'] = touch()
result['stat'] = attempt(os.stat, 'secret.txt'), attempt(os.fstat, fd)
result['open'] = attempt(get, 'secret.txt'), attempt(get, '/proc/self/fd/%d' % fd)
result['folder'] = attempt(os.listdir, folder), attempt(lambda: os.close(os.open('secret.txt', os.O_RDONLY, dir_fd=folder)))
result['names'] = sorted(os.listdir('.'))
shared[:4] = b'evil'
attempt(shared.flush); attempt(os.fsync, writing)
result['kept'] = attempt(os.pwrite, writing, b'by the handle', 0), attempt(os.ftruncate, writing, 0), attempt(put, 'kept.txt')
result['still'] = attempt(get, 'plain.txt'), attempt(os.pread, writing, 3, 100)
`

attack('F-17', 'open handles, mappings and directories lose what the grant loses', async (as) => {
  const files = {
    'secret.txt': SECRET,
    'folder/secret.txt': SECRET,
    'kept.txt': 'kept',
    'plain.txt': 'plain',
  }
  const stage = new Stage(as, { files })
  const { result, said } = await meanwhile(stage, OPENED, async (id) => {
    const bad = await stage.ambit(['narrow', id, 'hide', '!secret.txt'])
    assert.notEqual(bad.code, 0)
    for (const rule of [
      ['hide', 'secret.txt', '/folder'],
      ['protect', 'kept.txt'],
    ]) {
      const ran = await stage.ambit(['narrow', id, ...rule])
      assert.equal(ran.code, 0, describe(ran))
    }
  })
  // Which of the two depends on whether the kernel asks for attributes first.
  for (const got of [result.read, result.deep]) assert.match(String(got), /^(EACCES|ESTALE)$/, said)
  assert.equal(result.signal, constants.signals.SIGBUS, said)
  assert.deepEqual(result.open, ['ENOENT', 'ESTALE'], said)
  assert.deepEqual(result.folder, ['ESTALE', 'ESTALE'], said)
  assert.deepEqual(result.kept, ['EACCES', 'EACCES', 'EACCES'], said)
  assert.ok(!(result.names as string[]).some((name) => /secret|folder/.test(name)), said)
  assert.equal((result.still as string[])[0], 'plain', said)
  assert.equal(readFileSync(join(stage.project, 'kept.txt'), 'utf8'), 'kept')
  const recorded = (await stage.events()).filter((event) => JSON.stringify(event).includes('grant.narrow'))
  assert.equal(recorded.length, 3)
  const free = new Stage(as, { files })
  const control = await meanwhile(free, OPENED, async () => undefined)
  assert.deepEqual([control.result.read, control.result.signal], [SECRET, 0], control.said)
  assert.deepEqual((control.result.kept as string[])[0], 'ok', control.said)
  return 'refused on the handle, SIGBUS on the mapping, ESTALE on the directory; three records'
})

/** Repositories that a project holds beside its own, and what of each must stay. */
const NESTED: Readonly<Record<string, string>> = {
  'sub/.git': 'gitdir: ../stores/sub\n',
  'stores/sub/HEAD': 'ref: refs/heads/main\n',
  'stores/sub/config':
    '[core]\n\thooksPath = ../sub-hooks\n\tfsmonitor = watch.sh\n[include]\n\tpath = ../more.cfg\n[filter "x"]\n\tclean = "python3 tool/clean.py --in %f"\n',
  'stores/sub/hooks/pre-commit': '#!/bin/sh\n',
  'stores/more.cfg': '[alias]\n',
  'sub-hooks/pre-commit': '#!/bin/sh\n',
  'sub/watch.sh': '#!/bin/sh\n',
  'sub/tool/clean.py': '',
  'a/b/c/d/e/tree/.git': 'gitdir: ../../../../../../stores/main/worktrees/tree\n',
  'stores/main/worktrees/tree/HEAD': 'ref: refs/heads/tree\n',
  'stores/main/worktrees/tree/commondir': '../..\n',
  'stores/main/worktrees/tree/config.worktree': '',
  'stores/main/config': '[core]\n\tbare = true\n',
  'bare/x.git/HEAD': 'ref: refs/heads/main\n',
  'bare/x.git/objects/info/packs': '',
  'bare/x.git/refs/heads/x': '',
  'bare/x.git/config': '[core]\n\tbare = true\n',
}
const FREE = [
  'stores/sub/objects/x',
  'stores/sub/index',
  'sub/file.txt',
  'sub/tool/other.py',
  'bare/x.git/refs/heads/x',
  'stores/other.txt',
]
const MADE = ['stores/main/hooks/post-checkout', 'stores/sub/config.worktree', 'bare/x.git/hooks/pre-push']

attack('F-14', 'stores that nested .git files and bare repositories name stay as they are', async (as) => {
  const decisive = Object.keys(NESTED).filter((path) => !/HEAD$|objects|refs/.test(path))
  const attempts = (stage: Stage): Step[] => [
    ...[...decisive, ...MADE].map((path) => ({
      name: path,
      op: 'write',
      path: join(stage.project, path),
      text: 'evil',
    })),
    { name: 'rename', op: 'rename', from: join(stage.project, 'stores'), to: join(stage.project, 'gone') },
    ...FREE.map((path) => ({
      name: `free ${path}`,
      op: 'write',
      path: join(stage.project, path),
      text: 'fine',
    })),
  ]
  const make = (): Stage =>
    new Stage(as, {
      files: { ...NESTED, 'stores/sub/objects/': '', 'stores/main/hooks/': '', 'bare/x.git/hooks/': '' },
    })
  const stage = make()
  const inside = await stage.inside(attempts(stage))
  for (const path of decisive) {
    assert.match(inside.result(path).error ?? 'written', /^(EACCES|EPERM)$/, path)
    assert.equal(readFileSync(join(stage.project, path), 'utf8'), NESTED[path], path)
  }
  for (const path of MADE) assert.ok(!existsSync(join(stage.project, path)), path)
  assert.equal(inside.result('rename').ok, false)
  for (const path of FREE) assert.equal(inside.result(`free ${path}`).ok, true, path)
  const free = make()
  const outside = await free.uncontrolled(attempts(free))
  assert.ok(
    decisive.every((path) => outside.result(path).ok),
    describe(outside),
  )
  return `${decisive.length + MADE.length} places kept, ${FREE.length} free`
})

test('what holds another root keeps its place, whatever its name begins with', {
  skip: unavailable('user') ?? false,
}, async () => {
  const names = ['kept', '..kept', '...']
  const files = Object.fromEntries([...names, 'free'].map((name) => [`${name}/data/x`, 'x']))
  const stage = new Stage('user', { files })
  const spec = {
    files: [
      { path: '${project}', access: 'write' },
      ...names.map((name) => ({ path: `\${project}/${name}/data`, access: 'read' })),
    ],
  }
  const moves = [...names, 'free'].map((name) => `mv ${name} moved && echo "moved ${name}"`)
  const ran = await stage.session(['/bin/sh', '-c', moves.join('; ')], { spec })
  assert.deepEqual(ran.stdout.match(/^moved .*/gm), ['moved free'], describe(ran))
})
