import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { compileGlobs } from '../../src/lib/glob.ts'
import { decide } from '../../src/policy/decide.ts'
import { withDefaults } from '../../src/profile/defaults.ts'
import { narrowSpec } from '../../src/profile/extends.ts'
import { loadProfile } from '../../src/profile/load.ts'
import { refuses, World } from './support.ts'

const BASE = `spec:
  isolation: { memory: 4GiB, cpus: 2, wallclock: 8h }
  files:
    - { path: "\${project}", access: review, label: internal, hide: ["!**/.env.shared"] }
  hide: ["**/*.bak"]
  network:
    - { host: "*.example.com", ports: [443, 8443], methods: [GET, POST], paths: ["/v1/*", "/health"], clearance: confidential, credential: c }
    - { host: other.example }
    - { host: x.pinned.example }
  upload: { perRequest: 4MiB }
  credentials: [{ name: c, kind: header, header: x-key, source: "env:C", env: C_PLACE }]
  environment: { pass: [EDITOR, CI], set: { A: "1" } }
`
const RULE = 'host: "*.example.com", ports: [443], methods: [GET], paths: ["/v1/*"], credential: c'

const child = (world: World, spec: string) => {
  world.profile('base', BASE)
  return world.profile('child', `spec:\n  extends: base\n${spec}`)
}

test('a child inherits what it leaves out', () => {
  using world = new World()
  const { resolved } = child(world, '')
  assert.equal(resolved.spec.network?.length, 3)
  assert.deepEqual(resolved.spec.environment, { pass: ['EDITOR', 'CI'], set: { A: '1' } })
})

for (const [what, spec] of [
  ['fewer rules', '  network: []\n'],
  ['a narrower rule', `  network: [{ ${RULE} }]\n`],
  ['one host of a wildcard', `  network: [{ ${RULE.replace('*.example.com', 'api.example.com')} }]\n`],
  ['subdomains of a wildcard', `  network: [{ ${RULE.replace('*.example.com', '*.eu.example.com')} }]\n`],
  ['a longer path', `  network: [{ ${RULE.replace('/v1/*', '/v1/messages*')} }]\n`],
  ['limits on an unlimited rule', '  network: [{ host: other.example, methods: [GET], paths: ["/x"] }]\n'],
  ['a lower limit', '  isolation: { memory: 512MiB, cpus: 1, wallclock: 30m }\n'],
  ['a stronger runtime', '  isolation: { runtime: microvm, limits: required }\n'],
  ['less access and a higher label', '  files: [{ path: "${project}", access: read, label: regulated }]\n'],
  ['more denies', '  hide: ["**/*.csv"]\n  protect: ["**/x"]\n  review: ["**/y"]\n'],
  ['a budget below', '  upload: { perRequest: 1MiB }\n'],
  ['fewer variables', '  environment: { pass: [CI], set: {} }\n'],
  ['an approval', '  approvals: [start]\n'],
] as const) {
  test(`a child may have ${what}`, () => {
    using world = new World()
    assert.equal(child(world, spec).resolved.metadata.name, 'child')
  })
}

for (const [what, spec, message] of [
  [
    'a new host',
    '  network: [{ host: evil.example }]\n',
    /child\.yaml:6:\d+ network\[0\]\.host: widens base: it does not reach this host/,
  ],
  [
    'the parent of a wildcard',
    `  network: [{ ${RULE.replace('*.example.com', 'example.com')} }]\n`,
    /network\[0\]\.host/,
  ],
  [
    'a wider wildcard',
    `  network: [{ ${RULE.replace('*.example.com', '*.other.example')} }]\n`,
    /network\[0\]\.host/,
  ],
  // `x.` once stood for "some subdomain" in the comparison.
  [
    'the subdomains around a host of the base',
    '  network: [{ host: "*.pinned.example", methods: [GET], paths: ["/x"] }]\n',
    /network\[0\]\.host/,
  ],
  [
    'no credential, which lets foreign keys pass',
    `  network: [{ ${RULE.replace(', credential: c', '')} }]\n`,
    /network\[0\]\.credential/,
  ],
  ['another port', `  network: [{ ${RULE.replace('443', '22')} }]\n`, /network\[0\]\.ports/],
  ['plain HTTP', `  network: [{ ${RULE.replace('443', '443/http')} }]\n`, /network\[0\]\.ports/],
  ['another method', `  network: [{ ${RULE.replace('GET', 'DELETE')} }]\n`, /network\[0\]\.methods/],
  [
    'no methods, which means all',
    `  network: [{ ${RULE.replace('methods: [GET], ', '')} }]\n`,
    /omitted methods mean all/,
  ],
  [
    'no paths, which means all',
    `  network: [{ ${RULE.replace(', paths: ["/v1/*"]', '')} }]\n`,
    /omitted paths mean all/,
  ],
  ['a shorter path', `  network: [{ ${RULE.replace('/v1/*', '/v*')} }]\n`, /network\[0\]\.paths/],
  [
    'a path that begins alike',
    `  network: [{ ${RULE.replace('/v1/*', '/health*')} }]\n`,
    /network\[0\]\.paths/,
  ],
  ['a higher clearance', `  network: [{ ${RULE}, clearance: regulated }]\n`, /network\[0\]\.clearance/],
  [
    'bare TCP',
    '  network: [{ host: other.example, ports: [5432/tcp], connect: "127.0.0.1:1" }]\n',
    /network\[0\]\.ports/,
  ],
  ['no inspection', '  network: [{ host: other.example, inspect: false }]\n', /network\[0\]\.inspect/],
  [
    'an address to dial',
    '  network: [{ host: other.example, connect: "127.0.0.1:80" }]\n',
    /network\[0\]\.connect/,
  ],
  [
    'a credential elsewhere',
    '  network: [{ host: other.example, credential: c }]\n',
    /network\[0\]\.credential/,
  ],
  [
    'another root',
    '  files: [{ path: "${workspace}", access: read }]\n',
    /files\[0\]\.path: widens base: it has no such root/,
  ],
  ['more access', '  files: [{ path: "${project}", access: write }]\n', /files\[0\]\.access/],
  ['a lower label', '  files: [{ path: "${project}", access: read, label: public }]\n', /files\[0\]\.label/],
  ['a mount', '  files: [{ path: "${project}", access: read, via: mount }]\n', /files\[0\]\.via/],
  ['a re-admitted name', '  hide: ["!**/.env"]\n', /hide\[0\]: widens base: "!\*\*\/\.env" re-admits/],
  [
    'a re-admitted name in a root',
    '  files: [{ path: "${project}", access: read, protect: ["!**/.git/hooks"] }]\n',
    /files\[0\]\.protect\[0\]/,
  ],
  [
    'more memory',
    '  isolation: { memory: 5GiB }\n',
    /isolation\.memory: widens base: 5GiB is more than 4GiB/,
  ],
  [
    'more than a default',
    '  isolation: { processes: 513 }\n',
    /isolation\.processes: widens base: 513 is more than 512/,
  ],
  ['a longer time', '  isolation: { wallclock: 9h }\n', /isolation\.wallclock/],
  ['a larger budget than the default', '  upload: { perSession: 1GiB }\n', /upload\.perSession/],
  ['another variable', '  environment: { pass: [DISPLAY_NAME] }\n', /environment\.pass\[0\]/],
  ['another value', '  environment: { set: { A: "2" } }\n', /environment\.set\.A/],
  ['the clipboard', '  desktop: { clipboard: allow }\n', /desktop\.clipboard/],
  [
    'another source for a credential',
    '  credentials: [{ name: c, kind: header, header: x-key, source: "env:OTHER", env: C_PLACE }]\n',
    /credentials\[0\]/,
  ],
  ['a file in the mirror', '  mirror: [{ from: "${project}/x" }]\n', /mirror\[0\]/],
] as const) {
  test(`a child may not have ${what}`, () => {
    using world = new World()
    refuses('ERR_PROFILE_INVALID', message, () => child(world, spec))
  })
}

test("a child's denies hold against what its base re-admits", () => {
  using world = new World()
  const hidden = (spec: string) => compileGlobs(world.compile(child(world, spec)).roots[0]?.hide ?? [])
  assert.equal(hidden('')('.env.shared'), false)
  assert.equal(hidden('  hide: ["**/.env.shared"]\n')('.env.shared'), true)
})

test('errors in inherited parts point into the base', () => {
  using world = new World()
  world.profile('base', 'spec:\n  files:\n    - { path: "/nowhere/at/all", access: read }\n')
  refuses('ERR_PATH_FORBIDDEN', /base\.yaml:6:\d+ files\[0\]\.path/, () =>
    world.compile(world.profile('child', 'spec: { extends: base }\n')),
  )
})

test('a chain ends: in itself, in a circle, in too many, or in nothing', () => {
  using world = new World()
  const missing = 'ERR_PROFILE_NOT_FOUND'
  refuses(missing, /extends itself/, () => world.profile('self', 'spec: { extends: self }\n'))
  world.write(
    'ambit/config/profiles/a.yaml',
    'apiVersion: ambit/v1\nkind: Profile\nmetadata: { name: a }\nspec: { extends: b }\n',
  )
  refuses(missing, /extends itself/, () => world.profile('b', 'spec: { extends: a }\n'))
  refuses(missing, /none of that name/, () => world.profile('c', 'spec: { extends: nobody }\n'))
})

test('your writer may narrow the shipped writer', () => {
  using world = new World()
  world.profile('writer', 'spec:\n  extends: writer\n  network: []\n')
  const { resolved, origin } = loadProfile('writer', world.paths)
  assert.deepEqual([resolved.spec.network, resolved.spec.files?.length, origin], [[], 2, 'yours'])
})

/** A small generator with a seed, so that a failure can be repeated. */
function random(seed: number) {
  let state = seed
  const next = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const pick = <T>(from: readonly T[]): T => from[next(from.length)] as T
  return { next, pick, some: <T>(from: readonly T[]): T[] => from.filter(() => next(2) === 0) }
}

const HOSTS = ['a.example', 'b.a.example', 'c.b.a.example', '*.a.example', '*.b.a.example']
const PATHS = ['/*', '/v1/*', '/v1', '/v1/m*', '/v1/*/x', '/v1/*/x*', '/v1/m/x', '/*/m']
const METHODS = ['GET', 'POST']

test('property: what a narrowed profile allows, its base allows (2,000 pairs)', () => {
  const { next, pick, some } = random(7)
  const rule = () => ({
    host: pick(HOSTS),
    ...(next(2) ? { methods: some(METHODS) } : {}),
    ...(next(2) ? { paths: some(PATHS) } : {}),
    ...(next(3) ? {} : { ports: [443, 8443] }),
    ...(next(3) ? {} : { clearance: pick(['public', 'confidential'] as const) }),
  })
  using world = new World()
  const compiled = (network: ReturnType<typeof rule>[]) =>
    world.compile({
      resolved: { apiVersion: 'ambit/v1', kind: 'Profile', metadata: { name: 'x' }, spec: { network } },
      origin: 'file',
      file: '/x.yaml',
      place: () => 'x',
    })
  const requests = ['a.example', 'b.a.example', 'z.a.example', 'c.b.a.example', 'd.c.b.a.example'].flatMap(
    (host) =>
      ['/', '/v1', '/v1/', '/v1/m', '/v1/m/x', '/v1/q/x', '/v1/q/xx', '/q/m', '/v1/a/b/x'].flatMap((path) =>
        METHODS.map(
          (method) =>
            ({ kind: 'http.request', host, path, method, tls: true, port: pick([443, 8443]) }) as const,
        ),
      ),
  )
  let [narrowed, allowed] = [0, 0]
  for (let round = 0; round < 2000; round++) {
    const [parent, own] = [[rule()], [rule()]]
    const widened = Symbol('widened')
    try {
      narrowSpec(withDefaults({ network: parent }), { network: own }, () => {
        throw widened
      })
    } catch (error) {
      if (error !== widened) throw error
      continue
    }
    narrowed++
    const [base, child] = [compiled(parent), compiled(own)]
    for (const request of requests) {
      for (const label of ['public', 'confidential'] as const) {
        if (decide(request, child, { label, stopped: null }).effect !== 'allow') continue
        allowed++
        assert.equal(
          decide(request, base, { label, stopped: null }).effect,
          'allow',
          JSON.stringify({ parent, own, request }),
        )
      }
    }
  }
  assert.ok(
    narrowed > 100 && allowed > 500,
    `the property must bite: ${narrowed} narrowed, ${allowed} allowed`,
  )
})

/** What the child of a base with `files` means when it names `${home}/work` alone. */
const keepsWork = (world: World, files: string, work = 'access: write', lists = '') => {
  world.profile('base', `spec:\n  files:\n    - { path: "\${home}/work", ${work} }\n${files}${lists}`)
  return world.profile(
    'child',
    'spec:\n  extends: base\n  files: [{ path: "${home}/work", access: write }]\n',
  )
}

test('nothing is seen in a root that a child leaves out, whatever the rules of the root around it', () => {
  using world = new World()
  const inner = world.write('home/work/inner/db/fixtures/a.sql', '').replace('/db/fixtures/a.sql', '')
  const files = (path: string, more: string) => `    - { path: "${path}", ${more} }\n`
  const hides = (child: ReturnType<World['profile']>, change = {}) => {
    const [longest, ...others] = world.compile(child, change).roots
    assert.deepEqual(
      [longest?.path, longest?.access, longest?.variable, others.length],
      [inner, 'read', null, 1],
    )
    assert.equal(compileGlobs(longest?.hide ?? [])('db/fixtures/a.sql'), true)
    return longest
  }
  for (const stricter of ['access: read', 'access: write, label: regulated', 'access: write, hide: ["x"]'])
    hides(keepsWork(world, files('${home}/work/inner', stricter)))
  // Compared as text, these looked apart, or alike.
  hides(keepsWork(world, files('${project}', 'access: read')), { project: inner })
  hides(
    keepsWork(world, files('${home}/work/inner', 'access: write, hide: [db]'), 'access: write, hide: [db]'),
  )
  hides(
    keepsWork(
      world,
      files('${home}/work/inner', 'access: write, hide: ["**/*.sql"]'),
      'access: write, hide: ["**/*.sql", "!**/fixtures/**"]',
    ),
  )
  hides(keepsWork(world, files('${home}/work/inner', 'access: write'), 'access: write', '  hide: [/db]\n'))
  // A grandchild may name it again, and has nothing of it.
  keepsWork(world, files('${home}/work/inner', 'access: write'))
  const again = `spec:\n  extends: child\n  files:\n${files('${home}/work', 'access: write')}`
  hides(world.profile('grandchild', again + files('${home}/work/inner', 'access: read')))
})

test('a root that a child leaves out is none where no other holds it; its label stays on those within', () => {
  using world = new World()
  world.write('home/work/a', '')
  const apart = keepsWork(world, '    - { path: "/nowhere/at/all", access: read, label: regulated }\n')
  assert.deepEqual(
    world.compile(apart).roots.map(({ path, label }) => [path, label]),
    [[join(world.home, 'work'), 'internal']],
  )
  world.write('home/work/inner/a', '')
  world.profile(
    'base',
    'spec:\n  files:\n    - { path: "${home}/work", access: read, label: regulated }\n    - { path: "${home}/work/inner", access: read }\n',
  )
  const within = 'spec:\n  extends: base\n  files: [{ path: "${home}/work/inner", access: read }]\n'
  assert.deepEqual(
    world.compile(world.profile('child', within)).roots.map(({ path, label }) => [path, label]),
    [[join(world.home, 'work/inner'), 'regulated']],
  )
})
