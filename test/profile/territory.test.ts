/** F-05, F-06, F-14, F-24, K-..: roots that would come to mean more than the sheet says. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { compileGlobs } from '../../src/lib/glob.ts'
import { installRoot } from '../../src/lib/paths.ts'
import { beneath } from '../../src/profile/territory.ts'
import { refuses, World } from './support.ts'

const READ_PROJECT = '  files: [{ path: "${project}", access: review }]\n'
const FORBIDDEN = 'ERR_PATH_FORBIDDEN'
const rooted = (path: string) => `  files: [{ path: "${path}", access: read }]\n`

test('which root holds a path: the same answers as native code, from the same vectors', () => {
  const file = join(import.meta.dirname, '../fixtures/beneath-vectors.json')
  const vectors = JSON.parse(readFileSync(file, 'utf8')) as [string, string, string | null][]
  for (const [path, directory, expected] of vectors)
    assert.equal(beneath(path, directory), expected, `${path} in ${directory}`)
})

test('F-05: a root that became a link to / or to its parent does not widen', () => {
  using world = new World()
  assert.equal(world.plan(READ_PROJECT).roots[0]?.path, world.project)
  for (const target of ['/', '..', world.home, '/etc']) {
    using other = new World()
    renameSync(other.project, `${other.project}-moved`)
    symlinkSync(target, other.project)
    refuses(FORBIDDEN, /goes through a symbolic link; if you mean .*, name that/, () =>
      other.plan(READ_PROJECT),
    )
  }
})

test('F-05: nor does one whose parent became a link', () => {
  using world = new World()
  mkdirSync(join(world.dir, 'elsewhere/ledger'), { recursive: true })
  mkdirSync(join(world.home, 'work'))
  symlinkSync(join(world.dir, 'elsewhere'), join(world.home, 'work/here'))
  refuses(FORBIDDEN, /if you mean .*elsewhere\/ledger, name that/, () =>
    world.plan(rooted('${home}/work/here/ledger')),
  )
  assert.equal(world.plan(rooted(join(world.dir, 'elsewhere/ledger'))).roots.length, 1)
})

test('a workspace that is to be made under a link is refused, dangling or not', () => {
  using world = new World()
  const spec = '  files: [{ path: "${workspace}", access: write }]\n'
  assert.equal(world.plan(spec).roots[0]?.create, true)
  mkdirSync(dirname(world.workspace), { recursive: true })
  symlinkSync('/etc/nowhere', world.workspace)
  refuses(FORBIDDEN, /symbolic link|does not exist/, () => world.plan(spec))
})

test('F-06: a pattern is no root, nor is a climbing or relative path', () => {
  using world = new World()
  for (const [path, message] of [
    ['/tmp/x/**', /is a pattern/],
    ['${project}/*', /is a pattern/],
    ['${project}/../..', /has \. or \.\./],
    ['./ledger', /has \. or \.\./],
    ['ledger', /is not absolute/],
    ['${projects}', /there is no variable/],
    ['${project}x', /has no \//],
    ['/srv/${project}', /at the start only/],
    ['$HOME/x', /is not absolute/],
    ['~/x', /is not absolute/],
  ] as const) {
    refuses('ERR_PROFILE_INVALID', message, () => world.plan(rooted(path)))
  }
})

test('kernel trees are no roots', () => {
  using world = new World()
  for (const path of ['/proc', '/proc/self', '/sys/kernel', '/dev/shm']) {
    refuses(FORBIDDEN, /is no file tree/, () => world.plan(rooted(path)))
  }
})

test('a root must be a directory that is there', () => {
  using world = new World()
  refuses(FORBIDDEN, /does not exist/, () => world.plan(rooted('${home}/nothing')))
  world.write('home/file', '')
  refuses(FORBIDDEN, /is not a directory/, () => world.plan(rooted('${home}/file')))
})

test('F-24: a root that holds the shipped policies or programs does not start; one beside them does', () => {
  using world = new World()
  for (const name of ['policies', 'profiles', '.build']) {
    refuses(FORBIDDEN, /reaches (the shipped|Ambit's)/, () => world.plan(rooted(join(installRoot(), name))))
  }
  refuses(FORBIDDEN, /reaches/, () => world.plan(rooted(installRoot())))
  assert.equal(world.plan(rooted(join(installRoot(), 'docs'))).roots.length, 1)
})

test('AMBIT_HOME under a link is found under both its names', () => {
  using world = new World()
  mkdirSync(join(world.project, 'state'))
  symlinkSync(join(world.project, 'state'), join(world.dir, 'ambit'))
  refuses(FORBIDDEN, /reaches Ambit's/, () => world.plan(READ_PROJECT))
})

test('a bind mount of AMBIT_HOME inside a root is found', (t) => {
  using world = new World()
  mkdirSync(join(world.paths.state), { recursive: true })
  mkdirSync(join(world.project, 'looks-harmless'))
  const script = new URL('./bind-mount-probe.ts', import.meta.url).pathname
  const run = spawnSync(
    'unshare',
    [
      '--user',
      '--map-root-user',
      '--mount',
      'sh',
      '-ec',
      'mount --bind "$1" "$2"; exec "$3" "$4" "$5" "$6"',
      'sh',
      world.paths.state,
      join(world.project, 'looks-harmless'),
      process.execPath,
      script,
      world.dir,
      world.project,
    ],
    { encoding: 'utf8' },
  )
  if (/unshare|Operation not permitted/.test(run.stderr))
    return t.skip(`no user namespaces here: ${run.stderr.trim()}`)
  assert.equal(run.stdout.trim(), "ERR_PATH_FORBIDDEN reaches Ambit's state", run.stderr)
})

test('F-14: what git is redirected to is protected like what it is redirected from', () => {
  using world = new World()
  const git = (...args: string[]) => spawnSync('git', args, { cwd: world.project, encoding: 'utf8' })
  if (git('init', '-q').error) return assert.fail('git is needed')
  git('config', 'core.hooksPath', 'tools/hooks [a]')
  git('config', 'core.fsmonitor', 'tools/watch')
  git('config', 'include.path', '../shared.gitconfig')
  mkdirSync(join(world.project, 'tools/dir'), { recursive: true })
  for (const name of ['clean.py', 'text', 'diff.sh', 'free.py'])
    writeFileSync(join(world.project, 'tools', name), '')
  git('config', 'filter.strip.clean', "sh -c 'python3 ./tools/clean.py tools/dir %f'")
  git('config', 'diff.x.textconv', 'tools/text')
  git('config', 'diff.external', join(world.project, 'tools/diff.sh'))
  git('config', 'alias.free', '!tools/free.py')
  const shielded = compileGlobs(world.plan(READ_PROJECT).roots[0]?.protect ?? [])
  for (const name of [
    'tools/hooks [a]/pre-commit',
    'tools/watch',
    'shared.gitconfig',
    'tools/clean.py',
    'tools/text',
    'tools/diff.sh',
    '.git/config',
    '.git/hooks/x',
  ]) {
    assert.equal(shielded(name), true, name)
  }
  for (const name of ['tools/hooks a', 'tools/other', '.git/index']) assert.equal(shielded(name), false, name)
})

test('F-14: a .git file, and the repository it points to', () => {
  using world = new World()
  world.write('home/ledger/.git', 'gitdir: store/main\n')
  world.write('home/ledger/store/main/HEAD', 'ref: refs/heads/main\n')
  const shielded = compileGlobs(world.plan(READ_PROJECT).roots[0]?.protect ?? [])
  for (const name of ['.git', 'store/main/config', 'store/main/hooks/post-checkout'])
    assert.equal(shielded(name), true, name)
  assert.equal(shielded('store/main/index'), false)
})

test('P-09: directories on $PATH inside a root are protected, and the profile that set the bounds', () => {
  using world = new World()
  const profile = world.write('home/ledger/bounds.yaml', 'x')
  const plan = world.compile(
    { ...world.profile('probe', `spec:\n${READ_PROJECT}`), file: profile },
    { searchPath: ['/usr/bin', join(world.project, 'bin'), world.project, '', 'relative'] },
  )
  const shielded = compileGlobs(plan.roots[0]?.protect ?? [])
  assert.deepEqual(['bin', 'bin/ls', 'bounds.yaml', 'src', 'a/bin'].map(shielded), [
    true,
    true,
    true,
    false,
    false,
  ])
})

test('via: mount shows nothing that the profile hides, and no sockets', () => {
  using world = new World()
  const spec = '  files: [{ path: "${project}", access: read, via: mount }]\n'
  assert.equal(world.plan(spec).roots[0]?.via, 'mount')
  refuses('ERR_PROFILE_INVALID', /for access: read only/, () => world.plan(spec.replace('read', 'write')))
  spawnSync('mkfifo', [join(world.project, 'pipe')])
  refuses(FORBIDDEN, /is a socket or pipe/, () => world.plan(spec))
  using other = new World()
  other.write('home/ledger/a/b/.env', 'X=1')
  refuses(FORBIDDEN, /a\/b\/\.env is hidden/, () => other.plan(spec))
})

test('the file of a credential never lies where the agent works', () => {
  using world = new World()
  const spec = (path: string) =>
    `${READ_PROJECT}  credentials: [{ name: c, kind: header, header: x-key, source: "file:${path}" }]\n`
  assert.equal(world.plan(spec('${home}/keys/c')).credentials[0]?.source, `file:${world.home}/keys/c`)
  refuses(FORBIDDEN, /where the agent works/, () => world.plan(spec('${project}/.keys/c')))
  symlinkSync(world.project, join(world.home, 'keys'))
  refuses(FORBIDDEN, /where the agent works/, () => world.plan(spec('${home}/keys/c')))
})
