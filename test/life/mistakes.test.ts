/** What people get wrong: one line each that says what, why and what to do, and a status of the contract. */
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { describe, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const BROKEN = 'apiVersion: ambit/v1\nkind: Profile\n  x: [\n'
const UNKNOWN =
  'apiVersion: ambit/v1\nkind: Profile\nmetadata: { name: x, title: X }\nspec:\n  isolaton: {}\n'
const NO_SESSION = 's00000000-000000-zzzz'

/** Arguments, status, and what the line holds. */
const MISTAKES: readonly (readonly [readonly string[], number, RegExp])[] = [
  [['runn'], 2, /^ambit: runn: .*; see ambit --help/],
  [['run', '--bogus', '--', 'true'], 2, /'--bogus'; see ambit run --help/],
  [['run', '--project'], 2, /argument missing; see ambit run --help/],
  [['run', '--yes'], 2, /no command; ambit run -- CMD/],
  [['run', '--runtime', 'vm', '--', 'true'], 2, /one of os-sandbox, container, microvm; see/],
  [['run', '--profile', 'nope', '--yes', '--', 'true'], 125, /"nope": .*; see ambit profile ls/],
  [['run', '--profile', './broken.yaml', '--', 'true'], 125, /broken\.yaml:2:7: .*; mend it there/],
  [['run', '--profile', './unknown.yaml', '--', 'true'], 125, /isolaton: no such key; mend it there/],
  [['run', '--project', '/nowhere', '--', 'true'], 126, /does not exist; make it, or name another/],
  [['run', '--project', 'broken.yaml', '--', 'true'], 126, /is not a directory; name the directory/],
  [['run', '--yes', '--', 'no-such-program'], 127, /no such command on PATH; install it/],
  [['run', '--yes', '--quiet', '--summary', '/nowhere/x', '--', 'true'], 125, /ENOENT.*; name a file/],
  [['review'], 2, /name one session .*; see ambit review --help/],
  [['why', NO_SESSION], 125, /; see ambit sessions --all/],
  [['kill', 'x'], 125, /that is no session id; see ambit sessions --all/],
  [['log', '--session', 'x'], 125, /that is no session id; see ambit sessions --all/],
  [['log', 'verify', '/nowhere'], 1, /; name the directory of a log \(ambit log dir prints yours\)/],
  [['log', 'prove', '999'], 125, /; ambit log lists them/],
  [['policy', 'eval', 'data.x', '--input', 'nope.json'], 125, /ENOENT.*; name a file of JSON/],
  [['policy', 'eval', 'data.x', '--input', 'broken.yaml'], 125, /broken\.yaml: .*; name a file of JSON/],
  [['attest', 'verify', 'nope.json', '--last'], 125, /; name the one that ambit attest ID --out FILE wrote/],
  [['sessions', 'all'], 2, /takes no all; see ambit sessions --help/],
  [['doctor', 'now'], 2, /takes no now; see ambit doctor --help/],
]

test('each mistake is one line', { skip: unavailable('user') ?? false }, async () => {
  const stage = new Stage('user')
  stage.put(stage.project, { 'broken.yaml': BROKEN, 'unknown.yaml': UNKNOWN })
  for (const [args, code, line] of MISTAKES) {
    const ran = await stage.ambit(args, { cwd: stage.project })
    assert.equal(ran.code, code, `${args.join(' ')}\n${describe(ran)}`)
    const lines = ran.stderr
      .split('\n')
      .filter((text) => text.startsWith('ambit: ') && !/\(profile /.test(text))
    assert.equal(lines.length, 1, `${args.join(' ')}\n${describe(ran)}`)
    assert.match(lines[0] ?? '', line, args.join(' '))
    assert.doesNotMatch(ran.stderr, /ERR_INTERNAL|^ {4}at /m, args.join(' '))
  }
})

test('a review takes what it is told, and nothing of another name', {
  skip: unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user', { spec: { files: [{ path: '${project}', access: 'review' }] } })
  stage.put(stage.project, { 'one.txt': 'a\n', 'two.txt': 'a\n', 'deep/three.txt': 'a\n' })
  const script = 'for f in one.txt two.txt deep/three.txt; do echo b >>$f; done'
  const { session } = (await stage.session(['/bin/sh', '-c', script])).summary
  const review = (...args: string[]) =>
    stage.ambit(['review', session, ...args], { cwd: join(stage.project, 'deep') })
  for (const verb of ['diff', 'apply', 'drop']) {
    const stray = await review(verb, 'one.txt', 'on.txt')
    assert.equal(stray.code, 125, describe(stray))
    assert.match(
      stray.stderr,
      /^ambit: on\.txt: no change of that name waits; ambit review \S+ lists those that do/,
    )
  }
  const mixed = await review('diff', '--json')
  assert.equal(mixed.code, 2, describe(mixed))
  const diff = await review('diff', 'three.txt')
  assert.match(diff.stdout, /deep\/three\.txt/)
  assert.doesNotMatch(diff.stdout, /one\.txt|two\.txt/)
  const applied = await review('apply', 'three.txt', 'one.txt')
  assert.equal(applied.stdout.match(/^applied /gm)?.length, 2, describe(applied))
  const dropped = await review('drop', '--json')
  assert.deepEqual(JSON.parse(dropped.stdout), [{ root: stage.project, path: 'two.txt', state: 'dropped' }])
  const none = await review('apply')
  assert.deepEqual([none.code, none.stderr], [0, 'ambit: nothing waits for review\n'])
  assert.equal(readFileSync(join(stage.project, 'deep/three.txt'), 'utf8'), 'a\nb\n')
  assert.equal(readFileSync(join(stage.project, 'two.txt'), 'utf8'), 'a\n')
})

test('state that cannot be kept where it is said to be', { skip: unavailable('user') ?? false }, async () => {
  const stage = new Stage('user')
  stage.put(stage.outside, { file: '' })
  await stage.command(['mkdir', '-m', '555', join(stage.outside, 'fixed')])
  const places = ['/proc/nowhere', join(stage.outside, 'file'), join(stage.outside, 'fixed/state')]
  for (const AMBIT_HOME of places)
    for (const args of [['sessions'], stage.run(['/bin/true'], stage.profile())]) {
      // Below /proc, Node's own mkdir never came back.
      const ran = await stage.ambit(args, { env: { AMBIT_HOME }, timeout: 30_000 })
      assert.equal(ran.code, 125, `${AMBIT_HOME}\n${describe(ran)}`)
      assert.match(ran.stderr, /(^|\n)ambit: [^\n]+: [^\n]+; [^\n]+ \[ERR_(?!INTERNAL)\w+\]\n$/)
    }
})

for (const as of ['user', 'root'] as const)
  test(`a project may have any name, as ${as}`, { skip: unavailable(as) ?? false }, async () => {
    const stage = new Stage(as)
    for (const name of [
      'two words',
      'line\nfeed',
      'ü 日本 👩\u200d💻',
      "it's $HOME `x`",
      '\x1b[31mred',
      '-rf',
    ]) {
      const project = join(stage.root, name)
      mkdirSync(project)
      stage.put(project, { 'notes.txt': 'notes' })
      await stage.command(['chown', '-R', '--reference', stage.project, '--', project])
      const profile = stage.profile()
      const args = ['run', '--profile', profile, '--project', project, '--yes', '--', 'cat', 'notes.txt']
      const ran = await stage.ambit(args)
      assert.equal(ran.code, 0, describe(ran))
      assert.equal(ran.stdout, 'notes')
      assert.ok(!['\x1b[31m', '\nfeed'].some((raw) => ran.stderr.includes(raw)), describe(ran))
      const why = await stage.ambit(['sessions', '--all'])
      assert.ok(!['\x1b', '\nfeed'].some((raw) => why.stdout.includes(raw)), describe(why))
    }
  })
