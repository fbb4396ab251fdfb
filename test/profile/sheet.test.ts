import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { loadProfile } from '../../src/profile/load.ts'
import type { Plan, RuntimeName } from '../../src/profile/plan.ts'
import { renderSheet, type SheetContext } from '../../src/profile/sheet.ts'
import { hiddenButTracked } from '../../src/profile/tracked.ts'
import { runtimes } from '../../src/runtime/runtimes.ts'
import { World } from './support.ts'

const nameAndWords = (name: RuntimeName): SheetContext['runtime'] => ({ name, words: runtimes[name].words })
const CONTEXT: SheetContext = {
  agent: { name: 'codex', version: '1.2.3', digest: 'ab', executable: '/opt/codex' },
  argv: ['codex', 'exec'],
  runtime: nameAndWords('os-sandbox'),
  color: false,
}
const risks = (plan: Plan): string[] =>
  renderSheet(plan, CONTEXT)
    .lines.filter((line) => line.weight === 'risk')
    .map((line) => line.text)

test('risky lines come first, and the shipped profiles have none', () => {
  using world = new World()
  for (const name of ['reader', 'writer', 'cloud'])
    assert.deepEqual(risks(world.compile(loadProfile(name, world.paths))), [], name)
  const sheet = renderSheet(
    world.plan(
      '  network:\n    - { host: a.example, methods: [GET], paths: ["/x"] }\n    - { host: b.example }\n',
    ),
    CONTEXT,
  )
  const weights = sheet.lines.map((line) => line.weight)
  assert.deepEqual(
    weights,
    weights.toSorted((a, b) => ['risk', 'note', 'fact'].indexOf(a) - ['risk', 'note', 'fact'].indexOf(b)),
  )
  assert.match(sheet.lines[0]?.text ?? '', /b\.example.*methods are not limited; paths are not limited/)
})

for (const [what, spec, message] of [
  ['unlimited methods', '  network: [{ host: a.example, paths: ["/x"] }]\n', /methods are not limited/],
  ['unlimited paths', '  network: [{ host: a.example, methods: [GET] }]\n', /paths are not limited/],
  [
    'a wildcard',
    '  network: [{ host: "*.a.example", methods: [GET], paths: ["/x"] }]\n',
    /any host of that domain/,
  ],
  [
    'bare TCP',
    '  network: [{ host: a.example, ports: [5432/tcp], connect: "127.0.0.1:5432" }]\n',
    /reaches a\.example, .*nobody checks who answers.*, at port 5432: anything$/,
  ],
  ['no inspection', '  network: [{ host: a.example, inspect: false }]\n', /not inspected/],
  [
    'plain HTTP',
    '  network: [{ host: a.example, ports: [80/http], methods: [GET], paths: ["/x"] }]\n',
    /in clear/,
  ],
  [
    'methods that change things elsewhere',
    '  network: [{ host: a.example, methods: [PUT], paths: ["/x"] }]\n',
    /can change things there: PUT/,
  ],
  [
    'a pinned address',
    '  network: [{ host: a.example, methods: [GET], paths: ["/x"], connect: "10.0.0.1:443" }]\n',
    /address is pinned/,
  ],
  ['a written project', '  files: [{ path: "${project}", access: write }]\n', /reads and changes at once/],
  [
    'a re-admitted hidden name',
    '  hide: ["!**/.env"]\n  files: [{ path: "${project}", access: read }]\n',
    /shows \*\*\/\.env/,
  ],
  [
    'a re-admitted protected name',
    '  protect: ["!**/.git/hooks/**"]\n  files: [{ path: "${project}", access: review }]\n',
    /lets the agent change \*\*\/\.git\/hooks/,
  ],
  [
    'a re-admitted reviewed name',
    '  review: ["!**/package.json"]\n  files: [{ path: "${project}", access: review }]\n',
    /applies without review/,
  ],
  [
    'a hidden name in the mirror',
    '  mirror: [{ from: "${home}/.ssh/work" }, { from: "${home}/notes.md" }]\n',
    /copy of .*\.ssh\/work, a name that Ambit hides/,
  ],
  ['the clipboard', '  desktop: { clipboard: allow }\n', /clipboard/],
  ['the screen', '  desktop: { display: allow }\n', /screen/],
] as const) {
  test(`${what} is a risk`, () => {
    using world = new World()
    const found = risks(world.plan(spec))
    assert.equal(found.length, 1, found.join('\n'))
    assert.match(found[0] ?? '', message)
  })
}

test('a child that widens its parent is a line of its own', () => {
  using world = new World()
  mkdirSync(join(world.project, 'out'))
  const both = (parent: string, child: string) =>
    risks(
      world.plan(
        `  files:\n    - { path: "\${project}", access: ${parent} }\n    - { path: "\${project}/out", access: ${child} }\n`,
      ),
    ).filter((text) => text.includes('widens'))
  assert.match(both('read', 'review').join(), /out widens .*ledger: review instead of read/)
  assert.deepEqual(both('review', 'read'), [])
})

test('a profile inside a directory where the agent works is a risk', () => {
  using world = new World()
  const document = world.profile('probe', 'spec:\n  files: [{ path: "${project}", access: review }]\n')
  const plan = (file: string) => world.compile({ ...document, origin: 'file', file })
  assert.match(risks(plan(join(world.project, 'x.yaml'))).join(), /in a directory where the agent works/)
  assert.deepEqual(risks(plan(join(world.home, 'x.yaml'))), [])
})

test('`via: mount` says what is weaker', () => {
  using world = new World()
  const sheet = renderSheet(
    world.plan('  files: [{ path: "${project}", access: read, via: mount }]\n'),
    CONTEXT,
  )
  assert.ok(sheet.lines.some((line) => line.weight === 'note' && /mounted as it is/.test(line.text)))
})

test('the same grant has the same digest; another one, agent or runtime has not', () => {
  using world = new World()
  const spec = '  files: [{ path: "${workspace}", access: write }]\n  network: [{ host: a.example }]\n'
  const digest = (plan: Plan, change: Partial<SheetContext> = {}) =>
    renderSheet(plan, { ...CONTEXT, ...change }).digest
  const first = digest(world.plan(spec))
  assert.match(first, /^[0-9a-f]{64}$/)
  mkdirSync(world.workspace, { recursive: true })
  assert.equal(digest(world.plan(spec), { argv: ['codex', 'something else'], color: true }), first)
  const others = [
    digest(world.plan(spec.replace('a.example', 'b.example'))),
    digest(world.plan(spec), { agent: { ...CONTEXT.agent, digest: 'cd' } }),
    digest(world.plan(spec), { runtime: nameAndWords('container') }),
  ]
  assert.equal(new Set([first, ...others]).size, 4)
})

test('the sheet names the runtime, what it means, and which rule raised it', () => {
  using world = new World()
  const plan = world.plan('  files: [{ path: "${project}", access: read }]\n')
  const about = (change: Partial<SheetContext>): string =>
    renderSheet(plan, { ...CONTEXT, ...change })
      .lines.filter(({ section }) => section === 'isolation')
      .map(({ text }) => text)
      .join('\n')
  assert.match(about({}), /^in os-sandbox \(.*kernel.*\)/m)
  assert.doesNotMatch(about({}), /where the profile asks/)
  const raised = about({
    runtime: nameAndWords('microvm'),
    raised: ['label.regulated', 'user.high-risk', 'acme.rule'],
  })
  assert.match(raised, /^in microvm \(a virtual machine of its own/m)
  assert.match(
    raised,
    /in microvm where the profile asks for os-sandbox: regulated data.*\(label\.regulated\)/,
  )
  assert.match(raised, /users at high risk \(user\.high-risk\)/)
  assert.match(raised, /os-sandbox: acme\.rule$/m)
  const unknown = about({ runtime: nameAndWords('container'), raised: ['agent.unknown'] })
  assert.match(unknown, /no list.*\(agent\.unknown\)/)
})

test('the command is said once where it is but the name, and the desktop as what nobody gives', () => {
  using world = new World()
  const plan = world.plan('  desktop: { clipboard: allow }\n')
  const said = (argv: readonly string[]): string =>
    renderSheet(plan, { ...CONTEXT, agent: { ...CONTEXT.agent, name: 'ls', version: null }, argv }).text
  assert.match(said(['ls']), /runs ls$/m)
  assert.match(said(['ls', '-l']), /runs ls: ls -l$/m)
  assert.match(said(['ls']), /asks for your clipboard, which no runtime gives yet$/m)
})

test('nothing that others wrote reaches the terminal unescaped', () => {
  using world = new World()
  const plan = world.plan('  environment: { set: { NOTE: "x\u202ey\u200b" } }\n')
  const sheet = renderSheet(plan, {
    ...CONTEXT,
    agent: { ...CONTEXT.agent, name: '\x1b]0;owned\x07' },
    argv: ['a\nb'],
  })
  // oxlint-disable-next-line no-control-regex -- control characters are what must be absent
  assert.doesNotMatch(sheet.text.replaceAll('\n', ''), /[\u0000-\u001f\u007f\u202a-\u202e\u200b]/)
  assert.equal(sheet.text.split('\n').filter((line) => line.includes('runs')).length, 1)
  assert.match(sheet.text, /\\x1b\]0;owned\\x07/)
})

test('hidden names that git holds are named', () => {
  using world = new World()
  const git = (...args: string[]) => spawnSync('git', args, { cwd: world.project, encoding: 'utf8' }).status
  world.write('home/ledger/.env', 'KEY=1')
  world.write('home/ledger/a.txt', 'a')
  const plan = world.plan('  files: [{ path: "${project}", access: read }]\n')
  assert.deepEqual([git('init', '-q'), hiddenButTracked(plan), git('add', '-f', '.')], [0, [], 0])
  // What the repository configures must not run while it is looked at.
  const marker = join(world.dir, 'ran')
  git('config', 'core.fsmonitor', `touch ${marker}; false`)
  assert.deepEqual(hiddenButTracked(plan), [join(world.project, '.env')])
  assert.equal(existsSync(marker), false)
  git('status')
  assert.equal(existsSync(marker), true, 'the trap is armed')
  const { lines, digest } = renderSheet(plan, { ...CONTEXT, tracked: hiddenButTracked(plan) })
  assert.ok(lines.some((line) => line.weight === 'note' && /git has them.*\.env$/.test(line.text)))
  assert.equal(digest, renderSheet(plan, CONTEXT).digest)
})

test('colours appear only where asked for', () => {
  using world = new World()
  const plan = world.plan('  desktop: { audio: allow }\n')
  assert.ok(renderSheet(plan, { ...CONTEXT, color: true }).text.includes('\x1b[31m!\x1b[0m'))
  assert.ok(!renderSheet(plan, CONTEXT).text.includes('\x1b'))
})

test('however long its lists, a line shows what is risky in it first, and all of it', () => {
  using world = new World()
  const paths = Array.from({ length: 200 }, (_, index) => `"/a/long/and/tiresome/path/number/${index}"`).join(
    ', ',
  )
  const plan = world.plan(
    `  network: [{ host: a.example, ports: [80/http], methods: [GET], paths: [${paths}], connect: "10.0.0.1:80", clearance: confidential }]\n`,
  )
  const [first = '', ...more] = risks(plan)
  const [head = ''] = first.split('/a/long')
  for (const words of [/in clear/, /address is pinned/, /dialled at 10\.0\.0\.1/, /data up to confidential/])
    assert.match(head, words)
  const whole = [first, ...more.map((text) => text.replace(/^… /, ''))].join('')
  assert.match(whole, /number\/0, .*number\/199$/)
  assert.ok(more.length > 1 && more.every((text) => text.length <= 2002))
})

test('a root where all is hidden is one line, and no risk', () => {
  using world = new World()
  mkdirSync(join(world.project, 'out'))
  const { lines } = renderSheet(
    world.plan(
      '  files:\n    - { path: "${project}", access: review, hide: [x] }\n    - { path: "${project}/out", access: read, hide: ["**"] }\n',
    ),
    CONTEXT,
  )
  assert.deepEqual(
    lines.filter(({ rule }) => rule === 'files[1]').map(({ weight, text }) => [weight, text]),
    [['fact', `sees nothing in ${join(world.project, 'out')}`]],
  )
})
