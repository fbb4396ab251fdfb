/** P: files that a person or a tool later runs on the host. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { attack, once } from '../support/case.ts'
import { describe, Stage, type Step } from '../support/stage.ts'
import type { As } from '../support/users.ts'

/** Every way to change `path`: write, append, truncate, rename over, delete and re-create, chmod, by a link. */
function waysToChange(stage: Stage, path: string): Step[] {
  const target = join(stage.project, path)
  const bait = join(stage.project, `bait-${path.replaceAll('/', '-')}`)
  return [
    { name: `write ${path}`, op: 'write', path: target, text: 'changed' },
    { name: `append ${path}`, op: 'append', path: target, text: 'changed' },
    { name: `truncate ${path}`, op: 'truncate', path: target },
    { name: `bait ${path}`, op: 'write', path: bait, text: 'changed' },
    { name: `rename over ${path}`, op: 'rename', from: bait, to: target },
    { name: `chmod ${path}`, op: 'chmod', path: target, mode: 0o777 },
    { name: `link of ${path}`, op: 'symlink', target, path: `${bait}-link` },
    { name: `write through link of ${path}`, op: 'write', path: `${bait}-link`, text: 'changed' },
    { name: `unlink ${path}`, op: 'unlink', path: target },
  ]
}

const WAYS = [
  'write',
  'append',
  'truncate',
  'rename over',
  'chmod',
  'write through link of',
  'unlink',
] as const

const GIT = ['.git/hooks/pre-commit', '.git/config', '.gitmodules']
const CLAUDE = ['.claude/settings.json', '.claude/commands/run.md', '.claude/agents/a.md', '.claude.json']
const NEW = ['.git/hooks/post-checkout', '.claude/settings.local.json', '.claude/skills']

const scene = once(async (as: As) => {
  const make = (): Stage =>
    new Stage(as, {
      files: Object.fromEntries([...GIT, ...CLAUDE, 'plain.txt'].map((path) => [path, original(path)])),
    })
  const stage = make()
  await stage.command(['git', 'init', '--quiet', '.'])
  const config = readFileSync(join(stage.project, '.git/config'), 'utf8')
  const steps = [...GIT, ...CLAUDE].flatMap((path) => waysToChange(stage, path))
  const git = 'git -c user.name=a -c user.email=a@b.test'
  const inside = await stage.inside([
    ...steps,
    ...NEW.map((path) => ({ name: `create ${path}`, op: 'create', path: join(stage.project, path) })),
    {
      name: 'commit',
      op: 'sh',
      cmd: `${git} add plain.txt && ${git} commit -qm inside --no-verify && ${git} log --oneline`,
    },
    { name: 'set hooks path', op: 'sh', cmd: 'git config core.hooksPath /tmp/hooks' },
  ])
  const free = make()
  const outside = await free.uncontrolled([...GIT, ...CLAUDE].flatMap((path) => waysToChange(free, path)))
  return { stage, inside, outside, config }
})

const original = (path: string): string =>
  path === '.git/config' ? '[core]\n\trepositoryformatversion = 0\n' : `original ${path}\n`

async function holdsAgainstAll(as: As, paths: readonly string[]): Promise<number> {
  const { stage, inside, outside, config } = await scene(as)
  for (const path of paths) {
    for (const way of WAYS) {
      const name = `${way} ${path}`
      assert.ok(outside.result(name).ok, `control: ${name}: ${outside.result(name).text}`)
      assert.equal(inside.result(name).ok, false, `${name} succeeded`)
      assert.match(inside.result(name).error ?? '', /^(EACCES|EPERM|EROFS|EBUSY)$/, name)
    }
    const expected = path === '.git/config' ? config : original(path)
    assert.equal(readFileSync(join(stage.project, path), 'utf8'), expected, `${path} changed on the host`)
  }
  return paths.length * WAYS.length
}

attack('P-02', 'changes no git hook or configuration, while git works', async (as) => {
  const tried = await holdsAgainstAll(as, GIT)
  const { stage, inside } = await scene(as)
  const commit = inside.result('commit').value
  assert.equal(commit.code, 0, `objects, refs and index stay writable: ${commit.stderr}`)
  assert.match(commit.stdout, /inside/)
  assert.notEqual(inside.result('set hooks path').value.code, 0)
  assert.equal(inside.result('create .git/hooks/post-checkout').error, 'EACCES')
  assert.ok(!existsSync(join(stage.project, '.git/hooks/post-checkout')))
  return `${tried} attempts EACCES, commit works`
})

attack('P-05', 'changes no configuration of Claude', async (as) => {
  const tried = await holdsAgainstAll(as, CLAUDE)
  const { stage, inside } = await scene(as)
  for (const path of NEW.slice(1)) {
    assert.equal(inside.result(`create ${path}`).error, 'EACCES')
    assert.ok(!existsSync(join(stage.project, path)))
  }
  const denials = (await stage.events(inside.summary.session)).filter((event) =>
    JSON.stringify(event).includes('.claude/settings.json'),
  )
  assert.ok(denials.length > 0, 'the refusals are in the log')
  return `${tried} attempts EACCES, recorded`
})

attack('P-13', 'holds changes for review, executable ones first', async (as) => {
  const stage = new Stage(as, {
    files: { 'package.json': '{"scripts":{"test":"true"}}', 'src/a.txt': 'old', Makefile: 'all:\n' },
    spec: { files: [{ path: '${project}', access: 'review' }] },
  })
  const at = (path: string): string => join(stage.project, path)
  const ran = await stage.inside([
    { name: 'src', op: 'write', path: at('src/a.txt'), text: 'new' },
    { name: 'package', op: 'write', path: at('package.json'), text: '{"scripts":{"test":"curl evil"}}' },
    { name: 'make', op: 'write', path: at('Makefile'), text: 'all:\n\tcurl evil\n' },
    { name: 'new', op: 'write', path: at('src/b.txt'), text: 'new' },
    { name: 'read back', op: 'read', path: at('src/a.txt') },
  ])
  assert.equal(ran.result('read back').value, 'new', 'the agent sees its own changes')
  assert.equal(readFileSync(at('src/a.txt'), 'utf8'), 'old')
  assert.equal(readFileSync(at('package.json'), 'utf8'), '{"scripts":{"test":"true"}}')
  assert.ok(!existsSync(at('src/b.txt')))
  const { pending, session } = ran.summary
  // The tools that the test itself put there are pending, too, if they are new.
  const own = pending.filter((change) => !change.path.includes('/tools'))
  const flags = own.map((change) => change.executableConfig)
  assert.ok(own.some((change) => change.path.endsWith('package.json') && change.executableConfig))
  assert.ok(own.some((change) => change.path.endsWith('src/a.txt') && !change.executableConfig))
  assert.deepEqual(
    flags,
    [...flags].sort((a, b) => Number(b) - Number(a)),
    'executable configuration comes first',
  )
  const diff = await stage.ambit(['review', session, 'diff'])
  assert.ok(diff.stdout.indexOf('curl evil') >= 0, describe(diff))
  assert.ok(diff.stdout.indexOf('package.json') < diff.stdout.indexOf('src/a.txt'), 'and is shown first')
  const applied = await stage.ambit(['review', session, 'apply'])
  assert.equal(applied.code, 0, describe(applied))
  assert.equal(readFileSync(at('src/a.txt'), 'utf8'), 'new', 'control: applying brings them out')
  assert.equal(readFileSync(at('src/b.txt'), 'utf8'), 'new')
  return `${own.length} changes held, then applied`
})
