/** F: what can be read and written, by whatever name. The host's files are looked at after every attempt. */
import assert from 'node:assert/strict'
import { existsSync, linkSync, lstatSync, readdirSync, readFileSync, renameSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { attack, once } from '../support/case.ts'
import { commandOf, processesWith } from '../support/processes.ts'
import { denied, play, refused } from '../support/scene.ts'
import { describe, Stage, type Step } from '../support/stage.ts'
import type { As } from '../support/users.ts'

const SECRET = 'the secret outside'
const TOKEN = 'TOKEN=hidden-content'
const HIDDEN = 'zz-hidden-name.pem'

function makeStage(as: As): Stage {
  const stage = new Stage(as, {
    files: {
      'src/main.txt': 'main',
      'plain/file.txt': 'plain',
      '.env': TOKEN,
      [`keys/${HIDDEN}`]: TOKEN,
      '.git/config': '[core]\n',
      '.git/hooks/pre-commit': '#!/bin/sh\n',
      '.git/objects/': '',
      'deep/er/.vscode/tasks.json': '{}',
      'a/b/c/d/e/f/': '',
      'sub/.git/hooks/': '',
    },
  })
  stage.put(stage.outside, { 'secret.txt': SECRET, 'folder/secret.txt': SECRET })
  const link = (target: string, name: string): void => symlinkSync(target, join(stage.project, name))
  link(join(stage.outside, 'secret.txt'), 'planted')
  link('../outside/secret.txt', 'planted-relative')
  link(join(stage.outside, 'folder'), 'planted-folder')
  link('.env', 'alias-of-hidden')
  linkSync(join(stage.outside, 'secret.txt'), join(stage.project, 'second-name-of-secret'))
  linkSync(join(stage.project, '.env'), join(stage.project, 'second-name-of-hidden'))
  stage.own()
  return stage
}

const scene = once(async (as: As) => play([makeStage(as), makeStage(as)], attempts))

function attempts(stage: Stage): Step[] {
  const at = (path: string): string => join(stage.project, path)
  const read = (path: string): Step => ({ name: `read ${path}`, op: 'read', path: at(path) })
  return [
    // F-01
    { name: 'write outside', op: 'write', path: join(stage.outside, 'made-outside.txt') },
    { name: 'write beside', op: 'write', path: join(stage.root, 'made-beside.txt') },
    { name: 'write inside', op: 'write', path: at('made-inside.txt') },
    {
      name: 'write etc',
      op: 'sh',
      cmd: 'echo x > /usr/ambit-case 2>&1 || echo refused; rm -f /usr/ambit-case',
    },
    // F-02
    {
      name: 'make outward link',
      op: 'symlink',
      target: join(stage.outside, 'target.txt'),
      path: at('outward'),
    },
    { name: 'write through link', op: 'write', path: at('outward') },
    { name: 'write through folder link', op: 'write', path: at('planted-folder/new.txt') },
    // F-03
    ...['planted', 'planted-relative', 'planted-folder/secret.txt', 'alias-of-hidden', '.env'].map(read),
    { name: 'cat planted', op: 'sh', cmd: `cat ${at('planted')}` },
    // F-07
    ...['second-name-of-secret', 'second-name-of-hidden'].map(read),
    { name: 'link hidden', op: 'link', from: at('.env'), to: at('linked-hidden') },
    { name: 'link outside', op: 'link', from: join(stage.outside, 'secret.txt'), to: at('linked-outside') },
    { name: 'link plain', op: 'link', from: at('src/main.txt'), to: at('src/linked-main.txt') },
    // F-08
    { name: 'rename git', op: 'rename', from: at('.git'), to: at('git-moved') },
    { name: 'rename ancestor', op: 'rename', from: at('deep'), to: at('deep-moved') },
    { name: 'rename plain', op: 'rename', from: at('plain'), to: at('plain-moved') },
    { name: 'remove git', op: 'sh', cmd: `rm -rf ${at('.git')} ${at('deep')}; echo done` },
    // F-10
    { name: 'create mcp', op: 'create', path: at('.mcp.json') },
    { name: 'make claude', op: 'mkdir', path: at('.claude') },
    { name: 'create settings', op: 'create', path: at('.claude/settings.json') },
    { name: 'make vscode', op: 'sh', cmd: `mkdir -p ${at('fresh/.vscode')} && echo made` },
    { name: 'bait', op: 'write', path: at('bait.json') },
    { name: 'rename to mcp', op: 'rename', from: at('bait.json'), to: at('.mcp.json') },
    { name: 'link to mcp', op: 'link', from: at('bait.json'), to: at('.mcp.json') },
    { name: 'symlink to mcp', op: 'symlink', target: 'bait.json', path: at('.mcp.json') },
    // F-13
    { name: 'make deep git', op: 'mkdir', path: at('a/b/c/d/e/f/.git') },
    { name: 'make deep hooks', op: 'mkdir', path: at('a/b/c/d/e/f/.git/hooks') },
    { name: 'deep hook', op: 'write', path: at('a/b/c/d/e/f/.git/hooks/pre-commit') },
    { name: 'deep config', op: 'write', path: at('a/b/c/d/e/f/.git/config') },
    { name: 'sub hook', op: 'write', path: at('sub/.git/hooks/pre-commit') },
    // F-23
    {
      name: 'walk',
      op: 'sh',
      cmd: `ls -aR ${stage.project}; find ${stage.project}; du -a ${stage.project}`,
    },
    { name: 'touch hidden', op: 'sh', cmd: `cat ${at(`keys/${HIDDEN}`)}; stat ${at('keys')}/*; true` },
    { name: 'remove folder of hidden', op: 'rmdir', path: at('keys') },
    { name: 'mounts', op: 'sh', cmd: 'cat /proc/self/mountinfo /proc/mounts; df 2>/dev/null; true' },
    { name: 'stat hidden', op: 'stat', path: at('.env') },
    { name: 'create hidden', op: 'create', path: at('.env') },
    { name: 'create other hidden', op: 'create', path: at('other.pem') },
  ]
}

attack('F-01', 'writes nothing outside the roots', async (as) => {
  const seen = await scene(as)
  const code = refused(seen, 'write outside', /^(EROFS|EACCES|ENOENT|EPERM)$/)
  refused(seen, 'write beside', /^(EROFS|EACCES|ENOENT|EPERM)$/)
  assert.match(seen.inside.result('write etc').value.stdout, /refused/)
  assert.ok(!existsSync(join(seen.stage.outside, 'made-outside.txt')))
  assert.ok(!existsSync(join(seen.stage.root, 'made-beside.txt')))
  assert.ok(seen.inside.result('write inside').ok, 'control: the project is writable')
  assert.equal(readFileSync(join(seen.stage.project, 'made-inside.txt'), 'utf8'), 'written')
  return `${code}, absent outside`
})

attack('F-02', 'writes nothing through a link that leads out', async (as) => {
  const seen = await scene(as)
  const code = refused(seen, 'write through link', /^(EROFS|EACCES|ENOENT|EPERM|ELOOP)$/)
  refused(seen, 'write through folder link', /^(EROFS|EACCES|ENOENT|EPERM|ELOOP)$/)
  assert.ok(!existsSync(join(seen.stage.outside, 'target.txt')))
  assert.ok(!existsSync(join(seen.stage.outside, 'folder/new.txt')))
  return `${code}, target absent`
})

attack('F-03', 'reads no secret through links', async (as) => {
  const seen = await scene(as)
  const names = ['planted', 'planted-relative', 'planted-folder/secret.txt', 'alias-of-hidden', '.env']
  for (const name of names) refused(seen, `read ${name}`, /^(ENOENT|EACCES|ELOOP)$/)
  assert.equal(seen.outside.result('cat planted').value.stdout, SECRET, 'control')
  assert.equal(seen.inside.result('cat planted').value.stdout, '')
  assert.equal(seen.inside.result('read .env').error, 'ENOENT', 'a hidden name does not exist')
  assert.ok(!seen.inside.stdout.includes(SECRET) && !seen.inside.stdout.includes(TOKEN))
  return `${names.length} spellings, ${seen.inside.result('read planted').error}`
})

attack('F-04', 'carries nothing outside when the host follows its links', async (as) => {
  const stage = new Stage(as, { files: { 'reports/a.txt': 'old', 'kept/a.txt': 'old' } })
  stage.put(stage.outside, { 'victim/': '' })
  const at = (path: string): string => join(stage.project, path)
  const review = { files: [{ path: '${project}', access: 'review' }] }
  const ran = await stage.inside(
    [
      { name: 'change', op: 'write', path: at('reports/a.txt'), text: 'new' },
      { name: 'change kept', op: 'write', path: at('kept/a.txt'), text: 'new' },
      { name: 'lure', op: 'symlink', target: join(stage.outside, 'victim'), path: at('lure') },
      { name: 'through lure', op: 'write', path: at('lure/b.txt'), text: 'new' },
    ],
    { spec: review },
  )
  assert.ok(ran.result('change').ok, ran.result('change').text)
  assert.equal(ran.result('through lure').ok, false)
  assert.equal(readFileSync(at('reports/a.txt'), 'utf8'), 'old', 'nothing is applied yet')
  // The host's directory turns into a link outward between the session and the apply.
  renameSync(at('reports'), at('reports-moved'))
  symlinkSync(join(stage.outside, 'victim'), at('reports'))
  stage.own()
  await stage.ambit(['review', ran.summary.session, 'apply'])
  assert.equal(readFileSync(at('kept/a.txt'), 'utf8'), 'new', 'control: an honest change is applied')
  assert.deepEqual(readdirSync(join(stage.outside, 'victim')), [])
  return 'nothing written outside'
})

attack('F-07', 'gives no second name to a denied file', async (as) => {
  const seen = await scene(as)
  for (const name of ['second-name-of-secret', 'second-name-of-hidden'])
    refused(seen, `read ${name}`, /^(EACCES|ENOENT|EPERM)$/)
  const code = refused(seen, 'link hidden', /^(ENOENT|EACCES|EPERM)$/)
  refused(seen, 'link outside', /^(ENOENT|EACCES|EPERM|EXDEV)$/)
  assert.ok(!existsSync(join(seen.stage.project, 'linked-hidden')))
  assert.equal(lstatSync(join(seen.stage.outside, 'secret.txt')).nlink, 2)
  return `link ${code}, existing second names unreadable`
})

attack('F-08', 'pins the ancestors of protected names', async (as) => {
  const seen = await scene(as)
  const code = refused(seen, 'rename git', /^(EBUSY|EACCES|EPERM)$/)
  refused(seen, 'rename ancestor', /^(EBUSY|EACCES|EPERM)$/)
  assert.ok(seen.inside.result('rename plain').ok, 'control: an ordinary folder can be renamed')
  for (const path of ['.git/hooks/pre-commit', '.git/config', 'deep/er/.vscode/tasks.json'])
    assert.ok(existsSync(join(seen.stage.project, path)), `${path} is gone`)
  return `${code}, files still there after rm -rf`
})

attack('F-10', 'makes no protected name that was absent', async (as) => {
  const seen = await scene(as)
  for (const name of ['create mcp', 'make claude', 'rename to mcp', 'symlink to mcp', 'link to mcp'])
    denied(seen.inside.result(name), name, /^(EACCES|EPERM)$/)
  denied(seen.inside.result('create settings'), 'create settings', /^(EACCES|EPERM|ENOENT)$/)
  for (const name of ['create mcp', 'make claude', 'create settings'])
    assert.ok(seen.outside.result(name).ok, `control: ${name}`)
  assert.doesNotMatch(seen.inside.result('make vscode').value.stdout, /made/)
  for (const path of ['.mcp.json', '.claude', 'fresh/.vscode'])
    assert.ok(!existsSync(join(seen.stage.project, path)), `${path} exists on the host`)
  return `${seen.inside.result('create mcp').error} by create, mkdir, rename, link, symlink`
})

attack('F-13', 'protects at any depth', async (as) => {
  const seen = await scene(as)
  const code = refused(seen, 'sub hook', /^(EACCES|EPERM)$/)
  for (const name of ['make deep hooks', 'deep hook', 'deep config']) {
    assert.ok(seen.outside.result(name).ok, `control: ${name}`)
    denied(seen.inside.result(name), name, /^(EACCES|EPERM|ENOENT)$/)
  }
  assert.ok(!existsSync(join(seen.stage.project, 'a/b/c/d/e/f/.git/hooks')))
  assert.ok(!existsSync(join(seen.stage.project, 'sub/.git/hooks/pre-commit')))
  return `${code} seven levels down`
})

attack('F-21', 'shows nothing when the view is killed', async (as) => {
  const stage = makeStage(as)
  const look = 'ls -a . 2>&1; cat .env src/main.txt 2>&1'
  const loop = `${look}; echo x > begun; i=0; while [ $i -lt 400 ]; do ${look}; i=$((i+1)); sleep 0.02; done`
  let killed = 0
  const ran = await stage.session(['/bin/sh', '-c', loop], {
    onStart: () => {
      // Not before the command reads: a machine takes its time to start.
      const timer = setInterval(() => {
        if (!existsSync(join(stage.project, 'begun'))) return
        clearInterval(timer)
        const views = processesWith(stage.root).filter((pid) => commandOf(pid).includes('ambit-view'))
        killed = views.length
        setTimeout(() => views.forEach((pid) => process.kill(pid, 'SIGKILL')), 300)
      }, 50)
      timer.unref()
    },
  })
  assert.ok(killed > 0, `the view never ran\n${describe(ran)}`)
  assert.match(ran.stdout, /main/, 'control: it read before')
  assert.doesNotMatch(ran.stdout, /hidden-content|\.env$/m)
  assert.equal(ran.code, 125)
  assert.equal(ran.summary.outcome, 'killed')
  assert.ok(!readFileSync('/proc/mounts', 'utf8').includes(stage.root), 'a mount is left')
  return 'session killed, exit 125, no raw tree'
})

attack('F-23', 'names hidden files nowhere', async (as) => {
  const seen = await scene(as)
  const shown = ['walk', 'touch hidden', 'mounts']
    .map((name) => JSON.stringify(seen.inside.result(name).value))
    .join()
  const free = JSON.stringify(seen.outside.result('walk').value)
  assert.ok(free.includes(HIDDEN) && free.includes('.env'), 'control: the walk finds them without Ambit')
  // Only what the agent itself typed may come back: its error message repeats the path that it asked for.
  assert.ok(
    !JSON.stringify(seen.inside.result('walk').value).includes(HIDDEN),
    'a listing names a hidden file',
  )
  assert.ok(!seen.inside.result('walk').value.stdout.includes('.env'), 'a listing names .env')
  assert.ok(!shown.includes('hidden-content'))
  assert.ok(!seen.inside.result('mounts').value.stdout.includes(seen.stage.outside))
  assert.equal(seen.inside.result('stat hidden').error, 'ENOENT')
  denied(seen.inside.result('remove folder of hidden'), 'rmdir', /^ENOTEMPTY$/)
  // The same answer whether the name exists or not: no oracle.
  assert.equal(seen.inside.result('create hidden').error, 'EACCES')
  assert.equal(seen.inside.result('create other hidden').error, 'EACCES')
  return 'absent from listings, mounts and errors'
})
