import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { native } from '../../src/lib/native.ts'
import { installRoot } from '../../src/lib/paths.ts'
import { listProfiles, loadProfile } from '../../src/profile/load.ts'
import { profileJsonSchema } from '../../src/profile/schema.ts'
import { header, refuses, World } from './support.ts'

const GOOD = `spec:
  network:
    - { host: api.example.com, methods: [GET] }
`

test('a document with every key parses (positive control of what follows)', () => {
  using world = new World()
  const { resolved } = world.profile('probe', GOOD)
  assert.deepEqual(resolved.spec.network, [{ host: 'api.example.com', methods: ['GET'] }])
})

const INVALID = 'ERR_PROFILE_INVALID'

for (const [what, body, message] of [
  ['an unknown key', 'spec:\n  network: []\n  netwrok: []\n', /probe\.yaml:6:3 netwrok: no such key/],
  [
    'an unknown key in a rule',
    'spec:\n  network:\n    - { host: a.b, method: [GET] }\n',
    /probe\.yaml:6:\d+ network\[0\]\.method: no such key/,
  ],
  ['a null list', 'spec:\n  network:\n', /probe\.yaml:5:\d+ network: is empty: write \[\]/],
  [
    'a null restriction',
    'spec:\n  network:\n    - { host: a.b, paths: null }\n',
    /:6:\d+ network\[0\]\.paths: is empty/,
  ],
  [
    'a list that is a string',
    'spec:\n  network:\n    - host: a.b\n      methods: GET\n',
    /:7:16 network\[0\]\.methods: expected array/,
  ],
  ['a duplicate key', 'spec:\n  hide: ["a"]\n  hide: []\n', /probe\.yaml:6:3: Map keys must be unique/],
  ['an alias', 'spec:\n  hide: &x ["a"]\n  protect: *x\n', /probe\.yaml:5:\d+: an anchor/],
  ['a merge key', 'spec:\n  isolation:\n    <<: { cpus: 9 }\n', /:6:5: a key that means something else/],
  ['a tag', 'spec:\n  isolation: { cpus: !cores 2 }\n', /:5:\d+: Unresolved tag/],
  [
    'a prototype key',
    'spec:\n  environment:\n    set: { __proto__: "x" }\n',
    /:6:12: a key that means something else/,
  ],
  ['a second document', `${GOOD}---\nspec: {}\n`, /a second document/],
  [
    'a lower-case method',
    'spec:\n  network:\n    - { host: a.b, methods: [get] }\n',
    /network\[0\]\.methods\[0\]: an upper-case HTTP method/,
  ],
  ['a size without a unit', 'spec:\n  isolation: { memory: 4 }\n', /isolation\.memory: expected string/],
  [
    'a size with an unknown unit',
    'spec:\n  isolation: { memory: 4GiBs }\n',
    /isolation\.memory: a size such as 4MiB/,
  ],
  ['a negative limit', 'spec:\n  isolation: { processes: -1 }\n', /isolation\.processes/],
  ['another kind', 'kind: Policy\nspec: {}\n', /Map keys must be unique/],
] as const) {
  test(`refuses ${what}, with its place`, () => {
    using world = new World()
    refuses(INVALID, message, () => world.profile('probe', body))
  })
}

test('tells of every problem at once', () => {
  using world = new World()
  refuses(INVALID, /a: no such key\n {2}.*:6:3 b: no such key\n {2}.*cpus/, () =>
    world.profile('probe', 'spec:\n  a: 1\n  b: 2\n  isolation: { cpus: x }\n'),
  )
})

test('escapes what a file says in errors about it', () => {
  using world = new World()
  const thrown = (() => {
    try {
      world.profile('probe', 'spec: { "\\u001b[2J\\u202e": 1 }\n')
    } catch (error) {
      return String(error)
    }
    return 'nothing was thrown'
  })()
  assert.match(thrown, /no such key/)
  // oxlint-disable-next-line no-control-regex -- the escape character is the attack
  assert.doesNotMatch(thrown, /[\u001b\u202e]/)
})

test('errors that quote the file are escaped too', () => {
  using world = new World()
  for (const spec of [
    'files: [{ path: "${\u202e}", access: read }]',
    'hide: ["a\u202e["]\n  files: [{ path: "${project}", access: read }]',
  ]) {
    try {
      world.plan(`  ${spec}\n`)
      assert.fail('must be refused')
    } catch (error) {
      assert.match(String(error), /\\u\{202e\}/)
      assert.doesNotMatch(String(error), /\u202e/)
    }
  }
})

test('a pattern that does not parse is refused where it stands', () => {
  using world = new World()
  refuses(INVALID, /:5:\d+ hide\[1\]: .*brackets/, () => world.plan('  hide: ["a", "[b"]\n'))
  refuses(INVALID, /:5:\d+ files\[0\]\.protect\[0\]/, () =>
    world.plan('  files: [{ path: "${project}", access: read, protect: ["a**"] }]\n'),
  )
})

test('the roots of a rule come from a PEM file beside the profile, and from nothing else', () => {
  using world = new World()
  const now = Math.floor(Date.now() / 1000)
  const ca = native().createCa('Ledger root', now, now + 60)
  const rule = '  network: [{ host: ledger.internal, connect: "127.0.0.1:8443", ca: ./internal.pem }]\n'
  refuses(INVALID, /network\[0\]\.ca: no such file/, () => world.plan(rule))
  world.write('ambit/config/profiles/internal.pem', `# ours\n${ca.cert}`)
  assert.equal(world.plan(rule).network[0]?.ca?.trim(), ca.cert.trim())
  world.write('ambit/config/profiles/internal.pem', ca.cert + ca.key)
  refuses(INVALID, /something other than certificates/, () => world.plan(rule))
  world.write('ambit/config/profiles/internal.pem', 'text')
  refuses(INVALID, /no PEM certificate/, () => world.plan(rule))
})

test('the example of docs/profiles.md means what it says', () => {
  using world = new World()
  const [, yaml = ''] =
    /```yaml\n([\s\S]*?)```/.exec(readFileSync(join(installRoot(), 'docs/profiles.md'), 'utf8')) ?? []
  const plan = world.compile(loadProfile(world.write('ledger.yaml', yaml), world.paths))
  assert.equal(plan.roots.find((root) => root.variable === 'project')?.access, 'read')
  assert.equal(plan.network.length, 1)
})

test('refuses a file that is too large, nested too deeply or not UTF-8', () => {
  using world = new World()
  refuses(INVALID, /larger than/, () => world.profile('probe', `# ${'x'.repeat(300_000)}\n`))
  refuses(INVALID, /probe\.yaml/, () => world.profile('probe', `spec: ${'['.repeat(40_000)}\n`))
  const latin = world.write('latin.yaml', '')
  refuses(INVALID, /not valid/, () => loadProfile(writeBytes(latin), world.paths))
})

function writeBytes(path: string): string {
  const { writeFileSync } = process.getBuiltinModule('node:fs')
  writeFileSync(path, Buffer.from([0x61, 0xff, 0x0a]))
  return path
}

test("finds the user's own profile before the shipped one, and a path as a path", () => {
  using world = new World()
  assert.equal(loadProfile('writer', world.paths).origin, 'shipped')
  world.profile('writer', GOOD)
  assert.equal(loadProfile('writer', world.paths).origin, 'yours')
  assert.equal(loadProfile(world.write('elsewhere.yaml', header('x') + GOOD), world.paths).origin, 'file')
  assert.deepEqual(
    listProfiles(world.paths).map(({ name, source }) => `${name} ${source}`),
    ['cloud shipped', 'reader shipped', 'writer yours'],
  )
  refuses('ERR_PROFILE_NOT_FOUND', /none of that name/, () => loadProfile('nobody', world.paths))
  refuses('ERR_PROFILE_NOT_FOUND', /no name/, () => loadProfile('..\u001b', world.paths))
})

test("a profile cannot take another one's name, by which policy knows it", () => {
  using world = new World()
  world.write('ambit/config/profiles/mine.yaml', header('reader') + GOOD)
  refuses(INVALID, /:3:\d+ metadata\.name: is "reader" in a file named mine\.yaml/, () =>
    loadProfile('mine', world.paths),
  )
})

test('profiles/profile.schema.json is the schema (else: ./ambit profile schema > profiles/profile.schema.json)', () => {
  const kept: unknown = JSON.parse(readFileSync(join(installRoot(), 'profiles/profile.schema.json'), 'utf8'))
  assert.deepEqual(kept, JSON.parse(JSON.stringify(profileJsonSchema())))
})
