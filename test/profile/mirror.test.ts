import assert from 'node:assert/strict'
import { existsSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fillMirror } from '../../src/profile/mirror.ts'
import { refuses, World } from './support.ts'

const SPEC =
  '  files: [{ path: "${mirror}", access: review }]\n  mirror: [{ from: "${project}/q3.csv" }, { from: "${home}/notes.md", to: "docs/n.md" }]\n'

test('named files are copied in, and only they; changes are never overwritten', () => {
  using world = new World()
  world.write('home/ledger/q3.csv', 'a,b\n')
  world.write('home/ledger/q4.csv', 'secret\n')
  world.write('home/notes.md', '# n\n')
  const plan = world.plan(SPEC)
  const mirror = `${world.workspace}-mirror`
  assert.deepEqual(
    plan.roots.map(({ path, create, variable }) => [path, create, variable]),
    [[mirror, true, 'mirror']],
  )
  assert.deepEqual(
    fillMirror(plan.mirror).map((file) => file.state),
    ['copied', 'copied'],
  )
  assert.equal(readFileSync(join(mirror, 'docs/n.md'), 'utf8'), '# n\n')
  assert.equal(statSync(join(mirror, 'q3.csv')).mode & 0o777, 0o600)
  assert.equal(existsSync(join(mirror, 'q4.csv')), false)
  writeFileSync(join(mirror, 'q3.csv'), 'reviewed\n')
  assert.deepEqual(
    fillMirror(plan.mirror).map((file) => file.state),
    ['kept', 'same'],
  )
  assert.equal(readFileSync(join(mirror, 'q3.csv'), 'utf8'), 'reviewed\n')
})

test('a name that became a link, on either side, is refused', () => {
  using world = new World()
  const secret = world.write('home/secret', 'key')
  symlinkSync(secret, join(world.project, 'q3.csv'))
  world.write('home/notes.md', 'n')
  const plan = world.plan(SPEC)
  refuses('ERR_PATH_FORBIDDEN', /q3\.csv: ELOOP/, () => fillMirror(plan.mirror))
  const target = join(world.dir, 'target')
  using other = new World()
  other.write('home/ledger/q3.csv', 'a')
  other.write('home/notes.md', 'n')
  symlinkSync(target, join(other.write('home/ambit/ledger-mirror/keep', '').replace('/keep', '/q3.csv')))
  refuses('ERR_PATH_FORBIDDEN', /q3\.csv: ELOOP/, () => fillMirror(other.plan(SPEC).mirror))
  assert.equal(existsSync(target), false)
})

test('a missing file is an error, not an empty mirror', () => {
  using world = new World()
  refuses('ERR_PATH_FORBIDDEN', /q3\.csv: ENOENT/, () => fillMirror(world.plan(SPEC).mirror))
})

for (const [what, entry, message] of [
  ['leaves the mirror', '{ from: "${project}/a", to: "../a" }', /has \. or \.\./],
  ['is absolute', '{ from: "${project}/a", to: "/etc/a" }', /no name below/],
  [
    'is taken',
    '{ from: "${project}/a" }, { from: "${home}/A" }',
    /mirror\[1\]\.to: names a file that an earlier entry fills/,
  ],
  ['is a pattern', '{ from: "${project}/*.csv" }', /is a pattern/],
] as const) {
  test(`refuses a target that ${what}`, () => {
    using world = new World()
    refuses('ERR_PROFILE_INVALID', message, () => world.plan(`  mirror: [${entry}]\n`))
  })
}

test("Ambit's own files are never copied in, by no name of theirs", () => {
  using world = new World()
  const key = world.write('ambit/state/keys/log.key', 'key')
  refuses('ERR_PATH_FORBIDDEN', /mirror\[0\]\.from .*reaches Ambit's state/, () =>
    world.plan(`  mirror: [{ from: "${key}" }]\n`),
  )
  symlinkSync(join(world.paths.state, 'keys'), join(world.home, 'k'))
  refuses('ERR_PATH_FORBIDDEN', /reaches Ambit's state/, () =>
    world.plan('  mirror: [{ from: "${home}/k/log.key" }]\n'),
  )
})
