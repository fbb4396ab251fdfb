/** F, the wider set: roots, redirections, spellings, archives. The host's files are looked at after every attempt. */
import assert from 'node:assert/strict'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { attack, once } from '../support/case.ts'
import { play, refused } from '../support/scene.ts'
import { describe, Stage, type Step, type Steps } from '../support/stage.ts'
import type { As } from '../support/users.ts'

const SECRET = 'the secret outside'
const TOKEN = 'TOKEN=hidden-content'
const GIT_CONFIG =
  '[core]\n\thooksPath = myhooks\n\tfsmonitor = tools-dir/monitor\n[include]\n\tpath = ../extra.cfg\n'
const REFUSED = /^(EACCES|EPERM|EROFS|EBUSY|ENOENT|ELOOP|EXDEV|EEXIST|ENOTDIR)$/

function makeStage(as: As): Stage {
  const stage = new Stage(as, {
    files: {
      'plain.txt': 'plain',
      '.env': TOKEN,
      '.git/config': GIT_CONFIG,
      '.git/HEAD': 'ref: refs/heads/main\n',
      '.git/objects/': '',
      '.git/refs/': '',
      'myhooks/pre-commit': '#!/bin/sh\n',
      'extra.cfg': '[alias]\n',
      'decoy/config.toml': 'original',
      '.bashrc': 'original',
      'a/b.txt': 'b',
    },
  })
  stage.put(stage.outside, { 'secret.txt': SECRET, 'victim/': '' })
  symlinkSync('decoy', join(stage.project, '.codex'))
  stage.own()
  return stage
}

const sh = (name: string, cmd: string): Step => ({ name, op: 'sh', cmd })

/** Every spelling of one protected name that the file system resolves to it. */
const SAME = ['./.bashrc', 'a/../.bashrc', './/.bashrc', 'a/./../.bashrc']
/** Names that some other file system would take for a protected one. */
const SIMILAR = ['.BASHRC', '.Bashrc', '.bashrc.', '.bashrc ', '.MCP.json', '.ba\u017fhrc']

const REDIRECTED = ['myhooks/pre-commit', 'extra.cfg']
/** Where the project's own `.git` is a file that names `store`. */
const POINTED = ['.git', 'store/config', 'store/hooks/pre-commit']

const CHANGES: Readonly<Record<string, (path: string) => string>> = {
  truncate: (path) => `truncate -s 0 ${path}`,
  fallocate: (path) => `fallocate -l 4096 ${path}`,
  'copy range': (path) => `cp --reflink=never --remove-destination plain.txt ${path}; cp plain.txt ${path}`,
  clone: (path) => `cp --reflink=auto plain.txt ${path}`,
  overwrite: (path) => `dd if=plain.txt of=${path} conv=notrunc status=none`,
  attribute: (path) => `python3 -c 'import os,sys; os.setxattr(sys.argv[1], "user.case", b"x")' ${path}`,
  mode: (path) => `chmod 777 ${path}`,
  owner: (path) => `chown 12345 ${path}`,
  times: (path) => `touch -t 200001010000 ${path}`,
}

const attempts = (stage: Stage): Step[] => {
  const at = (path: string): string => join(stage.project, path)
  return [
    // F-22
    { name: 'read hidden', op: 'read', path: at('.env') },
    sh(
      'map hidden',
      `python3 -c 'import mmap; f=open("${at('.env')}","rb"); print(mmap.mmap(f.fileno(),0,prot=1)[:])'`,
    ),
    // F-09
    { name: 'write through protected link', op: 'write', path: at('.codex/config.toml'), text: 'changed' },
    { name: 'write its target', op: 'write', path: at('decoy/config.toml'), text: 'changed' },
    { name: 'unlink protected link', op: 'unlink', path: at('.codex') },
    { name: 'make in its place', op: 'mkdir', path: at('.codex') },
    { name: 'write in its place', op: 'write', path: at('.codex/config.toml'), text: 'changed' },
    // F-12
    ...[...SAME, ...SIMILAR].map((path) => ({
      name: `spelled ${path}`,
      op: 'write',
      path: `${stage.project}/${path}`,
      text: 'changed',
    })),
    sh(
      'by cwd',
      `cd ${stage.project}; for p in /proc/self/cwd/.bashrc /proc/self/root${at('.bashrc')}; do (echo changed > $p) 2>/dev/null && echo WROTE; done; true`,
    ),
    // F-14
    ...REDIRECTED.map((path) => ({
      name: `redirected ${path}`,
      op: 'write',
      path: at(path),
      text: 'changed',
    })),
    {
      name: 'monitor',
      op: 'sh',
      cmd: `mkdir -p ${at('tools-dir')} && echo x > ${at('tools-dir/monitor')} && echo made`,
    },
    // F-18, on a fresh protected file
    ...Object.entries(CHANGES).map(([name, command]) =>
      sh(`change ${name}`, `cd ${stage.project}; ${command('.git/config')} && echo DONE`),
    ),
    ...Object.entries(CHANGES).map(([name, command]) =>
      sh(`control ${name}`, `cd ${stage.project}; ${command('a/b.txt')} && echo DONE`),
    ),
    ...Object.entries(CHANGES).map(([name, command]) =>
      sh(
        `hidden ${name}`,
        `cd ${stage.project}; ${command('.env').replaceAll('plain.txt .env', '.env /tmp/copy')} && echo DONE; cat /tmp/copy`,
      ),
    ),
    { name: 'append hidden', op: 'append', path: at('.env') },
    // F-25
    sh(
      'extract',
      `cd ${stage.project} && tar -xPf ${at('tools/evil.tar')}; echo evil > unpacked/way-out/planted; cat unpacked/second-name; true`,
    ),
    sh('unpacked', `ls ${at('unpacked')}`),
  ]
}

/** An archive with a link out and a second name of a secret. */
async function plantArchive(stage: Stage): Promise<void> {
  const made = `cd ${stage.outside} && mkdir -p pack/unpacked && ln -s ${stage.outside}/victim pack/unpacked/way-out && echo fine > pack/unpacked/fine.txt && python3 -c '
import tarfile
t=tarfile.open("evil.tar","w"); t.add("pack/unpacked","unpacked")
i=tarfile.TarInfo("unpacked/second-name"); i.type=tarfile.LNKTYPE; i.linkname="${stage.outside}/secret.txt"; t.addfile(i); t.close()'`
  const ran = await stage.command(['/bin/sh', '-c', made])
  assert.equal(ran.code, 0, describe(ran))
  mkdirSync(join(stage.project, 'tools'), { recursive: true })
  cpSync(join(stage.outside, 'evil.tar'), join(stage.project, 'tools/evil.tar'))
  stage.own()
}

const scene = once(async (as: As) => {
  const stages = [makeStage(as), makeStage(as)] as const
  for (const stage of stages) await plantArchive(stage)
  return play(stages, attempts)
})

const host = (stage: Stage, path: string): string => readFileSync(join(stage.project, path), 'utf8')

attack('F-05', 'never widens a root that became a link', async (as) => {
  const stage = new Stage(as, { files: { 'real/secret.txt': SECRET, 'swapped/a.txt': 'a' } })
  stage.put(stage.outside, { 'secret.txt': SECRET })
  const at = (path: string): string => join(stage.project, path)
  const grant = (path: string) => ({ spec: { files: [{ path: `\${project}/${path}`, access: 'write' }] } })
  const look = (path: string): string[] => [
    '/bin/sh',
    '-c',
    `cat ${at(path)}/secret.txt; echo evil > ${at(path)}/made.txt; echo done`,
  ]
  const control = await stage.session(look('real'), grant('real'))
  assert.ok(control.stdout.includes(SECRET), `control: a real directory is granted\n${describe(control)}`)
  // The agent may have done this in a session before.
  renameSync(at('swapped'), at('moved'))
  const said: string[] = []
  for (const target of [stage.outside, '/', '..', '../outside']) {
    symlinkSync(target, at('swapped'))
    stage.own()
    const ran = await stage.session(look('swapped'), grant('swapped'))
    assert.ok(!ran.stdout.includes(SECRET), `a link to ${target} widens the root`)
    assert.ok(!existsSync(join(stage.outside, 'made.txt')) && !existsSync(join(stage.root, 'made.txt')))
    said.push(ran.stdout.includes('done') ? 'empty' : `exit ${ran.code}`)
    renameSync(at('swapped'), at(`old-${said.length}`))
  }
  return said.join(', ')
})

attack('F-06', 'takes a pattern for no root', async (as) => {
  const stage = new Stage(as, { files: { 'x/a.txt': 'a' } })
  stage.put(stage.outside, { 'secret.txt': SECRET })
  symlinkSync('/', join(stage.project, 'x/link'))
  stage.own()
  const look = [
    '/bin/sh',
    '-c',
    `cat ${stage.outside}/secret.txt; cat ${stage.project}/x/link${stage.outside}/secret.txt; echo done`,
  ]
  for (const path of [
    '${project}/x/**',
    '/**',
    '${project}/*',
    `${stage.outside}/**`,
    '${project}/x/link/**',
  ]) {
    const ran = await stage.session(look, { spec: { files: [{ path, access: 'write' }] } })
    assert.ok(!ran.stdout.includes(SECRET), `${path} widens\n${describe(ran)}`)
  }
  const fine = await stage.session(look, { spec: { files: [{ path: stage.outside, access: 'read' }] } })
  assert.ok(fine.stdout.includes(SECRET), `control: a named root is granted\n${describe(fine)}`)
  return '5 patterns grant nothing'
})

attack('F-09', 'keeps a protected link and what it leads to', async (as) => {
  const seen = await scene(as)
  for (const name of ['write through protected link', 'unlink protected link']) refused(seen, name, REFUSED)
  assert.equal(seen.inside.result('make in its place').ok, false)
  const direct = seen.inside.result('write its target')
  assert.equal(
    host(seen.stage, 'decoy/config.toml'),
    'original',
    'the target of a protected link was changed',
  )
  assert.equal(direct.ok, false)
  return `link and target: ${direct.error}`
})

attack('F-12', 'decides all spellings of a name alike', async (as) => {
  const seen = await scene(as)
  for (const path of SAME) refused(seen, `spelled ${path}`, REFUSED)
  assert.match(seen.outside.result('by cwd').value.stdout, /WROTE\nWROTE/, 'control')
  assert.doesNotMatch(seen.inside.result('by cwd').value.stdout, /WROTE/)
  assert.equal(host(seen.stage, '.bashrc'), 'original')
  for (const path of SIMILAR) {
    refused(seen, `spelled ${path}`, REFUSED)
    assert.ok(!existsSync(join(seen.stage.project, path)), `${path} was made`)
  }
  return `${SAME.length + 2} spellings and ${SIMILAR.length} look-alikes refused`
})

attack('F-14', 'protects where the project’s git is redirected to', async (as) => {
  const seen = await scene(as)
  for (const path of REDIRECTED) {
    refused(seen, `redirected ${path}`, REFUSED)
    assert.notEqual(host(seen.stage, path), 'changed', path)
  }
  await keepsPointer(as)
  const monitor = seen.inside.result('monitor').value.stdout as string
  assert.doesNotMatch(monitor, /made/, 'the program of core.fsmonitor was planted')
  return `${REDIRECTED.length + POINTED.length} targets and the monitor refused`
})

async function keepsPointer(as: As): Promise<void> {
  const text = (path: string): string => (path === '.git' ? 'gitdir: store\n' : `original ${path}\n`)
  const make = (): Stage =>
    new Stage(as, {
      files: {
        ...Object.fromEntries(POINTED.map((path) => [path, text(path)])),
        'store/HEAD': 'ref: refs/heads/main\n',
      },
    })
  const steps = (on: Stage): Step[] => [
    ...POINTED.map((path) => ({ name: path, op: 'write', path: join(on.project, path), text: 'changed' })),
    { name: 'replace', op: 'sh', cmd: `cd ${on.project} && rm -f .git && mkdir .git && echo made` },
    { name: 'head', op: 'write', path: join(on.project, 'store/HEAD'), text: 'ref: refs/heads/new' },
  ]
  const seen = await play([make(), make()], steps)
  const { stage, inside, outside } = seen
  for (const path of POINTED) {
    refused(seen, path, REFUSED)
    assert.equal(host(stage, path), text(path), path)
  }
  assert.match(outside.result('replace').value.stdout, /made/, 'control')
  assert.doesNotMatch(inside.result('replace').value.stdout, /made/)
  assert.ok(inside.result('head').ok, 'control: the rest of the repository stays writable')
}

attack('F-18', 'changes a protected file by no other call', async (as) => {
  const { stage, inside, outside } = await scene(as)
  const done = (steps: Steps, name: string): boolean => /DONE/.test(steps.result(name).value.stdout)
  const working = Object.keys(CHANGES).filter((name) => done(inside, `control ${name}`))
  assert.ok(working.length >= 6, `control: on an ordinary file only ${working.join(', ')} work`)
  for (const name of Object.keys(CHANGES)) {
    assert.ok(!done(inside, `change ${name}`), `${name} on a protected file succeeded`)
    assert.doesNotMatch(JSON.stringify(inside.result(`hidden ${name}`).value), /hidden-content/, name)
  }
  assert.ok(done(outside, 'change truncate'), 'control: outside it is changed')
  assert.equal(host(stage, '.git/config'), GIT_CONFIG)
  assert.equal(host(stage, '.env'), TOKEN)
  return `${Object.keys(CHANGES).length} calls refused`
})

attack('F-19', 'shares no temporary directory with the host', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  stage.put(stage.outside, { 'victim.txt': 'untouched' })
  const name = `/tmp/${basename(stage.root)}`
  symlinkSync(join(stage.outside, 'victim.txt'), name)
  const ran = await stage.inside([
    sh('use', `cat ${name} 2>&1; echo evil > ${name} && cat ${name}; ls -a /tmp /var/tmp`),
  ])
  assert.match(ran.result('use').value.stdout, /evil/, 'control: inside the name is free')
  assert.equal(readFileSync(join(stage.outside, 'victim.txt'), 'utf8'), 'untouched')
  renameSync(name, join(stage.outside, 'planted-link'))
  const mine = readdirSync('/tmp').filter((entry) => entry.includes(basename(stage.root)))
  assert.deepEqual(mine, [])
  return 'private /tmp, planted link untouched'
})

/** The same marks where they count: in a layer of the kernel's own overlay. Shows what is left to see. */
const OVERLAY = `mkdir -p layers/lower/dir layers/upper/dir layers/merged; cd layers
echo kept > lower/kept.txt; echo kept > lower/dir/kept.txt
mknod upper/kept.txt c 0 0
python3 -c 'import os; os.setxattr("upper/dir", "user.overlay.opaque", b"y")'
mount -t overlay overlay -o userxattr,lowerdir=upper:lower merged
cd merged; ls -d dir; ls kept.txt dir/kept.txt 2>/dev/null || true`

attack('F-20', 'takes no name for a mark of the layer', async (as) => {
  const stage = new Stage(as, { files: { 'kept.txt': 'kept', 'dir/kept.txt': 'kept', 'honest.txt': 'old' } })
  const at = (path: string): string => join(stage.project, path)
  const ran = await stage.inside(
    [
      ...['.wh.kept.txt', '.wh..wh..opq', 'dir/.wh..wh..opq', 'dir/.wh.kept.txt'].map((path) => ({
        name: path,
        op: 'write',
        path: at(path),
        text: '',
      })),
      sh(
        'whiteout',
        `mknod ${at('dir/white')} c 0 0; for x in trusted user; do python3 -c "import os; os.setxattr('${at('dir')}', '$x.overlay.opaque', b'y')"; done; true`,
      ),
      sh('left', `cat ${at('kept.txt')} ${at('dir/kept.txt')}`),
      { name: 'honest', op: 'unlink', path: at('honest.txt') },
      sh('up', `cat ${at('dir')}/../../../outside/secret.txt ${at('../outside/secret.txt')}; true`),
    ],
    { spec: { files: [{ path: '${project}', access: 'review' }] } },
  )
  assert.equal(ran.result('left').value.stdout, 'keptkept', 'a mark hides a file in the session')
  assert.equal(host(stage, 'honest.txt'), 'old', 'nothing is applied yet')
  const applied = await stage.ambit(['review', ran.summary.session, 'apply'])
  assert.equal(applied.code, 0, describe(applied))
  for (const path of ['kept.txt', 'dir/kept.txt'])
    assert.equal(host(stage, path), 'kept', `${path} was removed`)
  assert.ok(!existsSync(at('honest.txt')), 'control: an honest removal is applied')
  const namespace = ['unshare', '--user', '--map-root-user', '--mount']
  const overlay = await stage.command([...namespace, '/bin/sh', '-ec', OVERLAY], { cwd: stage.outside })
  // No layer of an overlay can be made on another overlay, as a container's own files are.
  if (overlay.code !== 0) return 'names are names; no overlay here to compare with'
  assert.equal(overlay.stdout, 'dir\n', `control: in an overlay such marks hide files\n${describe(overlay)}`)
  return 'names are names'
})

attack('F-22', 'shows no content of a hidden file by any call', async (as) => {
  const seen = await scene(as)
  refused(seen, 'read hidden', REFUSED)
  refused(seen, 'append hidden', REFUSED)
  assert.match(seen.outside.result('map hidden').value.stdout, /hidden-content/, 'control')
  assert.doesNotMatch(JSON.stringify(seen.inside.result('map hidden').value), /hidden-content/)
  assert.equal(host(seen.stage, '.env'), TOKEN)
  return `read ${seen.inside.result('read hidden').error}, append ${seen.inside.result('append hidden').error}`
})

attack('F-24', 'lets the agent change no profile that lies in its project', async (as) => {
  const stage = new Stage(as, { files: { 'other.yaml': 'x: 1' } })
  const inProject = join(stage.project, 'mine.yaml')
  cpSync(stage.profile(), inProject)
  chmodSync(inProject, 0o644)
  stage.own()
  const text = readFileSync(inProject, 'utf8')
  const tries = `(echo evil > mine.yaml) 2>/dev/null && echo WROTE; mv other.yaml mine.yaml 2>/dev/null && echo MOVED; rm -f mine.yaml 2>/dev/null && echo GONE; echo more >> plain.yaml && echo CONTROL`
  const ran = await stage.ambit(stage.run(['/bin/sh', '-c', tries], inProject))
  assert.match(ran.stdout, /CONTROL/, `control: another file can be made\n${describe(ran)}`)
  assert.doesNotMatch(ran.stdout, /WROTE|MOVED|GONE/)
  assert.equal(readFileSync(inProject, 'utf8'), text)
  writeFileSync(inProject, text)
  return 'write, replace and removal refused'
})

attack('F-25', 'lets an archive carry no way out', async (as) => {
  const { stage, free, inside, outside } = await scene(as)
  assert.ok(existsSync(join(free.outside, 'victim/planted')), 'control: outside the link carries the write')
  assert.match(outside.result('extract').value.stdout, /the secret/, 'control: outside the second name reads')
  assert.deepEqual(readdirSync(join(stage.outside, 'victim')), [])
  assert.doesNotMatch(inside.result('extract').value.stdout, /the secret/)
  assert.match(inside.result('unpacked').value.stdout, /fine\.txt/, 'control: the rest is unpacked')
  return 'nothing written or read outside'
})

/** What makes git take a directory for a repository, with a program that `git status` would start. */
const bareRepository = (stage: Stage): string => `cd ${stage.project} && mkdir -p bare/objects bare/refs work
echo 'ref: refs/heads/main' > bare/HEAD
printf '[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = ../work\n\tfsmonitor = "touch ${stage.project}/RAN; false"\n' > bare/config
test -e bare/HEAD && echo made`

attack('F-14', 'leaves no directory that git on the host takes for a repository', async (as) => {
  const [stage, free] = [
    new Stage(as, { files: { 'a.txt': 'a' } }),
    new Stage(as, { files: { 'a.txt': 'a' } }),
  ]
  const inside = await stage.session(['/bin/sh', '-c', bareRepository(stage)])
  await free.command(['/bin/sh', '-c', bareRepository(free)])
  for (const on of [stage, free]) await on.command(['git', 'status'], { cwd: join(on.project, 'bare') })
  assert.ok(existsSync(join(free.project, 'RAN')), 'control: without Ambit git runs the program')
  assert.match(inside.stdout, /made/, 'control: the agent has it for itself')
  assert.ok(!existsSync(join(stage.project, 'RAN')), 'git on the host ran a program of the agent')
  return 'its HEAD waits for review'
})
