/** Remedies are tried: each change is made to the profile, and what was refused is decided again. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { parse } from 'yaml'
import type { FactBody } from '../../src/audit/fact.ts'
import { compileGlobs } from '../../src/lib/glob.ts'
import { resolvePaths } from '../../src/lib/paths.ts'
import { decide } from '../../src/policy/decide.ts'
import type { Action, SessionState } from '../../src/policy/decision.ts'
import { compilePlan } from '../../src/profile/compile.ts'
import { loadProfile } from '../../src/profile/load.ts'
import type { Plan } from '../../src/profile/plan.ts'
import { renderComments } from '../../src/session/observe.ts'
import { type Remedy, RemedyFold } from '../../src/session/remedy.ts'
import { doubled } from '../../src/session/remedy-sizes.ts'

const dir = realpathSync(mkdtempSync(join(tmpdir(), 'ambit-remedy-')))
after(() => rmSync(dir, { recursive: true, force: true }))
for (const name of ['project', 'library', 'home', 'state']) mkdirSync(join(dir, name))
const paths = resolvePaths({ AMBIT_HOME: join(dir, 'state') })
const project = join(dir, 'project')
const OPEN: SessionState = { label: 'public', stopped: null }

const SPEC = {
  files: [
    { path: '${project}', access: 'review', protect: ['**/frozen.txt'] },
    { path: join(dir, 'library'), access: 'read' },
  ],
  network: [
    { host: 'api.test', methods: ['GET'], paths: ['/v1/*'], credential: 'key' },
    { host: 'open.test' },
    { host: '*.wild.test', methods: ['GET'], clearance: 'public' },
  ],
  upload: { perRequest: '4MiB', perMinute: '4MiB', perSession: '200MiB' },
  credentials: [{ name: 'key', kind: 'header', header: 'x-key', source: 'env:KEY' }],
}

function planOf(spec: unknown): Plan {
  const file = join(dir, 'case.yaml')
  const document = { apiVersion: 'ambit/v1', kind: 'Profile', metadata: { name: 'case' }, spec }
  writeFileSync(file, JSON.stringify(document))
  const variables = { project, workspace: join(dir, 'workspace'), home: join(dir, 'home'), searchPath: [] }
  return compilePlan(loadProfile(file, paths), variables, paths)
}

function remedies(...facts: FactBody[]): Remedy[] {
  const fold = new RemedyFold(planOf(SPEC))
  for (const [m, fact] of facts.entries()) fold.add({ t: 0, m, ...fact })
  return fold.result()
}

/** The plan after a person has made every change of `remedy` by hand. */
function planWith(remedy: Remedy): Plan {
  const spec = structuredClone(SPEC) as Record<string, any>
  for (const { place, yaml } of remedy.changes) {
    const value = parse(yaml)
    const steps = place.split(/[.[\]]+/).filter(Boolean)
    const last = steps.pop() as string
    const parent = steps.reduce((node, step) => (node[step] ??= {}), spec)
    if (Array.isArray(value)) parent[last] = [...(parent[last] ?? []), ...value]
    else parent[last] = { ...parent[last], ...value }
  }
  return planOf(spec)
}

const only = (...facts: FactBody[]): Remedy => {
  const found = remedies(...facts)
  assert.equal(found.length, 1, JSON.stringify(found))
  return found[0] as Remedy
}

type Request = { method?: string; host: string; port?: number; path?: string; reason: string; rule?: string }
const http = ({ method = 'GET', port = 443, path = '/', rule, ...rest }: Request): FactBody => ({
  k: 'http.denied',
  flow: 1,
  status: 403,
  method,
  port,
  path,
  ...rest,
  rule: rule ?? null,
})
const asked = (method: string, host: string, path: string, port = 443, tls = true): Action => ({
  kind: 'http.request',
  host,
  port,
  tls,
  method,
  path,
})
const effect = (action: Action, plan: Plan, state = OPEN): string => decide(action, plan, state).effect
const file = (path: string, reason: any, rule = 'files[0]'): FactBody => ({
  k: 'file.denied',
  path: join(project, path),
  op: 'open',
  reason,
  rule,
})
const NO_RULE = 'network.no-matching-rule'

test('a host without a rule gets one for exactly the requests that were tried', () => {
  const remedy = only(
    { k: 'dns.query', name: 'new.test', type: 'A', answer: '21.0.0.9', reason: NO_RULE, rule: null },
    http({ host: 'new.test', path: '/a?token=secret', reason: NO_RULE }),
    http({ host: 'new.test', path: '/b', method: 'POST', reason: NO_RULE }),
  )
  assert.deepEqual(
    [remedy.changes, remedy.risk, remedy.count],
    [
      [
        {
          place: 'network',
          yaml: '- { host: "new.test", methods: ["GET", "POST"], paths: ["/a", "/b"] }',
        },
      ],
      'high',
      2,
    ],
  )
  const [before, plan] = [planOf(SPEC), planWith(remedy)]
  assert.equal(effect(asked('GET', 'new.test', '/a'), before), 'deny')
  assert.equal(effect(asked('GET', 'new.test', '/a?token=secret'), plan), 'allow')
  assert.equal(effect(asked('POST', 'new.test', '/b'), plan), 'allow')
  for (const action of [
    asked('GET', 'new.test', '/c'),
    asked('PUT', 'new.test', '/a'),
    asked('GET', 'sub.new.test', '/a'),
  ])
    assert.equal(effect(action, plan), 'deny')
})

test('a rule gets the one method, path or port more', () => {
  const change = (fact: FactBody, action: Action): Remedy => {
    const remedy = only(fact)
    assert.equal(effect(action, planOf(SPEC)), 'deny')
    assert.equal(effect(action, planWith(remedy)), 'allow', JSON.stringify(remedy))
    return remedy
  }
  const api = { host: 'api.test', rule: 'network[0]' }
  const path = change(
    http({ ...api, path: '/v2/x', reason: 'network.path-not-allowed' }),
    asked('GET', 'api.test', '/v2/x'),
  )
  assert.deepEqual(path.changes, [{ place: 'network[0].paths', yaml: '- "/v2/x"' }])
  assert.equal(effect(asked('GET', 'api.test', '/v2/y'), planWith(path)), 'deny')
  const method = change(
    http({ ...api, method: 'DELETE', path: '/v3/x', reason: 'network.method-not-allowed' }),
    asked('DELETE', 'api.test', '/v3/x'),
  )
  assert.deepEqual(
    method.changes.map(({ place }) => place),
    ['network[0].methods', 'network[0].paths'],
  )
  assert.equal(method.risk, 'high')
  const port = change(
    http({ host: 'open.test', rule: 'network[1]', port: 8443, reason: 'network.port-not-allowed' }),
    asked('GET', 'open.test', '/', 8443),
  )
  assert.equal(effect(asked('GET', 'open.test', '/'), planWith(port)), 'allow', '443 stays')
  change(
    http({ host: 'open.test', rule: 'network[1]', port: 80, reason: 'network.port-not-allowed' }),
    asked('GET', 'open.test', '/', 80, false),
  )
})

test('ports of one rule are one change: two would undo each other', () => {
  const port = (port: number): FactBody =>
    http({ host: 'open.test', rule: 'network[1]', port, reason: 'network.port-not-allowed' })
  const plan = planWith(only(port(8443), port(9443), port(8443)))
  assert.deepEqual(plan.network.find(({ id }) => id === 'network[1]')?.ports, [443, 8443, 9443])
})

test('all remedies together make one valid profile', () => {
  const facts = [
    http({ host: 'new.test', reason: NO_RULE }),
    http({ host: 'new.test', port: 8443, reason: NO_RULE }),
    http({ host: 'api.test', rule: 'network[0]', method: 'PUT', reason: 'network.method-not-allowed' }),
    http({ host: 'api.test', rule: 'network[0]', path: '/x', reason: 'network.path-not-allowed' }),
    http({ host: 'api.test', rule: 'network[0]', port: 444, reason: 'network.port-not-allowed' }),
    file('.env', 'hidden'),
    file('a/.env', 'hidden'),
    file('big', 'quota'),
  ]
  const all = remedies(...facts)
  const plan = planWith({ ...(all[0] as Remedy), changes: all.flatMap(({ changes }) => changes) })
  for (const [method, path] of [
    ['PUT', '/'],
    ['GET', '/x'],
  ] as const)
    assert.equal(effect(asked(method, 'api.test', path), plan), 'allow')
  assert.equal(effect(asked('GET', 'new.test', '/', 8443), plan), 'allow')
  assert.equal(effect(asked('GET', 'api.test', '/x', 444), plan), 'allow')
})

test('clearance is raised to what the session read, no higher', () => {
  const remedy = only(
    { k: 'file.open', path: '/x', mode: 'read', size: 1, sha256: null, label: 'internal' },
    http({ host: 'a.wild.test', rule: 'network[2]', reason: 'network.clearance-exceeded' }),
  )
  assert.deepEqual([remedy.changes[0]?.yaml, remedy.risk], ['clearance: internal', 'high'])
  const read = { label: 'internal', stopped: null } as const
  assert.equal(effect(asked('GET', 'a.wild.test', '/'), planOf(SPEC), read), 'deny')
  assert.equal(effect(asked('GET', 'a.wild.test', '/'), planWith(remedy), read), 'allow')
})

test('budgets and the disk are doubled, with what bounds them', () => {
  const upload = only(http({ host: 'open.test', rule: 'network[1]', reason: 'upload.per-request' }))
  assert.deepEqual(planWith(upload).upload, {
    perRequest: 8 * 1024 ** 2,
    perMinute: 8 * 1024 ** 2,
    perSession: 200 * 1024 ** 2,
  })
  assert.equal(planWith(only(file('big', 'quota'))).isolation.disk, 20 * 1024 ** 3)
  assert.equal(doubled('disk', 5e15), null)
  assert.equal(doubled('disk', 1500), 'disk: 3000B')
})

test('a hidden file is shown by its exact path, and nothing else is', () => {
  const remedy = only(file('a [1]/.env', 'hidden'))
  assert.match(remedy.rule ?? '', /files\[0\] hide \*\*\/\.env \(default list\)/)
  const hides = (plan: Plan, path: string): boolean =>
    compileGlobs(plan.roots.find(({ id }) => id === 'files[0]')?.hide ?? [])(path)
  assert.equal(hides(planOf(SPEC), 'a [1]/.env'), true)
  assert.equal(hides(planWith(remedy), 'a [1]/.env'), false)
  assert.equal(hides(planWith(remedy), '.env'), true)
  assert.equal(hides(planWith(remedy), 'a 1/.env'), true)
  const deep = only(file('.ssh/id_rsa', 'hidden'))
  assert.equal(deep.changes.length, 2)
  assert.equal(hides(planWith(deep), '.ssh/id_rsa'), false)
  assert.equal(hides(planWith(deep), '.ssh/id_ed25519'), true)
})

test('what the profile protects it may open; what Ambit protects, nobody is told to', () => {
  const own = only(file('frozen.txt', 'protected'))
  assert.deepEqual(own.changes, [{ place: 'files[0].protect', yaml: '- "!/frozen.txt"' }])
  for (const path of ['.git/hooks/pre-commit', '.vscode/tasks.json', '.bashrc']) {
    const remedy = only(file(path, 'protected'))
    assert.deepEqual([remedy.changes, remedy.risk], [[], null])
    assert.match(remedy.advice, /workspace/)
    assert.match(remedy.rule ?? '', /default list/)
  }
})

test('a file is matched to its root by its path, as roots lie in the plan', () => {
  assert.match(only(file('.env', 'hidden')).rule ?? '', /^files\[0\] hide/)
  const remedy = only({
    k: 'file.denied',
    path: '/elsewhere/.env',
    op: 'open',
    reason: 'hidden',
    rule: 'files[0]',
  })
  assert.deepEqual(remedy.changes, [])
})

test('a protocol that never passes is answered by that alone', () => {
  const net = {
    k: 'net.denied',
    flow: 1,
    host: 'git.test',
    address: '21.0.0.4',
    port: 22,
    rule: null,
  } as const
  const dns = {
    k: 'dns.query',
    name: 'git.test',
    type: 'A',
    answer: null,
    reason: NO_RULE,
    rule: null,
  } as const
  assert.equal(only(dns).changes.length, 1)
  const remedy = only(dns, { ...net, reason: 'net.protocol-ssh' })
  assert.deepEqual(remedy.changes, [])
  assert.match(remedy.advice, /https:/)
})

test('a tool whose next request nobody has seen yet gets the rules for all of its work', () => {
  const refs = '/a/b.git/info/refs?service=git-upload-pack'
  const clone = only(http({ host: 'code.test', path: refs, reason: NO_RULE }))
  const plan = planWith(clone)
  const asks = (method: string, host: string, path: string) =>
    decide({ kind: 'http.request', host, port: 443, tls: true, method, path }, plan, OPEN).effect
  assert.equal(asks('POST', 'code.test', '/a/b.git/git-upload-pack'), 'allow')
  assert.equal(asks('POST', 'code.test', '/a/b.git/git-receive-pack'), 'deny')
  assert.equal(asks('GET', 'code.test', '/other/c.git/info/refs'), 'deny')
  assert.equal(clone.risk, 'high')

  const install = planWith(only(http({ host: 'pypi.org', path: '/simple/requests/', reason: NO_RULE })))
  for (const [host, path] of [
    ['pypi.org', '/simple/urllib3/'],
    ['files.pythonhosted.org', '/packages/x.whl'],
  ] as const) {
    const get = decide(
      { kind: 'http.request', host, port: 443, tls: true, method: 'GET', path },
      install,
      OPEN,
    )
    assert.equal(get.effect, 'allow', host)
  }
  const publish = only(http({ host: 'pypi.org', method: 'POST', path: '/legacy/', reason: NO_RULE }))
  assert.match(publish.changes[0]?.yaml ?? '', /paths: \["\/legacy\/"\]/)
})

test('what was in a query is told to nobody', () => {
  const remedy = only(http({ host: 'new.test', port: 8443, path: '/a?token=hunter2', reason: NO_RULE }))
  assert.equal(remedy.target, 'GET new.test:8443/a?…')
  assert.doesNotMatch(JSON.stringify(remedy), /hunter2/)
})

test('a read-only root becomes review, never write', () => {
  const fact = { k: 'file.denied', path: join(dir, 'library/x'), op: 'create', reason: 'read-only' } as const
  const plan = planWith(only({ ...fact, rule: 'files[1]' }))
  assert.equal(plan.roots.find(({ id }) => id === 'files[1]')?.access, 'review')
})

test('a credential without a value names its source', () => {
  const remedy = only(http({ host: 'api.test', rule: 'network[0]', reason: 'credential.unavailable' }))
  assert.deepEqual(remedy.changes, [{ place: 'credentials[0]', yaml: 'source: "env:KEY"' }])
  assert.match(remedy.advice, /export KEY=/)
})

const NO_CHANGE: Record<string, FactBody> = {
  'an IP literal': http({ host: '93.184.216.34', reason: NO_RULE }),
  'a private address behind a name': http({
    host: 'open.test',
    rule: 'network[1]',
    reason: 'upstream.address-forbidden',
  }),
  'a foreign key': { k: 'credential.foreign', host: 'api.test', header: 'x-key', fingerprint: 'ab' },
  'plain HTTP beside a credential': http({
    host: 'api.test',
    rule: 'network[0]',
    port: 80,
    reason: 'network.port-not-allowed',
  }),
  'a path with a wildcard, which would admit all': http({
    host: 'api.test',
    rule: 'network[0]',
    path: '/*',
    reason: 'network.path-not-allowed',
  }),
  'a wildcard path of an unknown host': http({ host: 'new.test', path: '/**', reason: NO_RULE }),
  'a path spelled for a fool': http({ host: 'new.test', path: '/a/%2e%2e/b', reason: NO_RULE }),
  'a host that is none': http({ host: 'x.test", inspect: false, host: "y.test', reason: NO_RULE }),
  'a host with another spelling': http({ host: 'NEW.test', reason: NO_RULE }),
  TRACE: http({ host: 'new.test', method: 'TRACE', reason: NO_RULE }),
  'a method that is YAML': http({ host: 'new.test', method: 'GET] , x: [', reason: NO_RULE }),
  SSH: {
    k: 'net.denied',
    flow: 1,
    host: 'new.test',
    address: '21.0.0.3',
    port: 22,
    reason: NO_RULE,
    rule: null,
  },
  'a hidden name with a newline': file('a\n- "**"/.env', 'hidden'),
  'a hidden name with a bidi override': file('\u202e/.env', 'hidden'),
  'a hidden name too long to read': file(`${'a'.repeat(600)}/.env`, 'hidden'),
  'a hard link': file('linked', 'hard-link'),
  'a reason of tomorrow': http({ host: 'open.test', rule: 'network[1]', reason: 'new.reason' }),
}

for (const [name, fact] of Object.entries(NO_CHANGE))
  test(`suggests no change for ${name}, and says why`, () => {
    const remedy = only(fact)
    assert.deepEqual([remedy.changes, remedy.risk], [[], null])
    assert.match(remedy.advice, /\w.*\.$/)
    // oxlint-disable-next-line no-control-regex -- what must not be there
    assert.doesNotMatch(JSON.stringify(remedy), /[\x00-\x1f\x7f-\x9f\u202a-\u202e]|\\n|\\u00/)
  })

test('names that are awkward in YAML come back as they were', () => {
  for (const name of [
    'it\'s "quoted" # no: comment',
    '!bang',
    '- dash',
    '{brace}',
    'ümläut',
    'back\\slash',
    '*',
  ]) {
    const remedy = only(file(`${name}/.env`, 'hidden'))
    const shown = planWith(remedy).roots.find(({ id }) => id === 'files[0]')?.hide ?? []
    assert.equal(compileGlobs(shown)(`${name}/.env`), false, remedy.changes[0]?.yaml)
    assert.equal(compileGlobs(shown)('other/.env'), true)
  }
})

test('method names that YAML would read as a word of its own stay text', () => {
  const remedy = only(http({ host: 'new.test', method: 'NULL', reason: NO_RULE }))
  assert.deepEqual(planWith(remedy).network.at(-1)?.methods, ['NULL'])
})

test('newest last, counted, and bounded', () => {
  const facts = Array.from({ length: 5000 }, (_, index) => http({ host: `h${index}.test`, reason: NO_RULE }))
  assert.equal(remedies(...facts).length, 1000)
  const [first, second] = remedies(file('.env', 'hidden'), file('b', 'hard-link'), file('.env', 'hidden'))
  assert.deepEqual([first?.reason, second?.count], ['open: hard-link', 2])
  const flood = only(
    ...Array.from({ length: 500 }, (_, index) =>
      http({ host: 'new.test', path: `/${index}`, reason: NO_RULE }),
    ),
  )
  assert.match(flood.advice, /not all paths/)
  assert.equal(planWith(flood).network.at(-1)?.paths?.length, 20)
})

test('a draft has comments only, riskiest first, however much was refused', () => {
  const text = renderComments(
    remedies(
      file('frozen\u0085x: y', 'hard-link'),
      http({ host: 'low.test', path: '/a', reason: NO_RULE }),
      file('.env', 'hidden'),
      ...Array.from({ length: 900 }, (_, index) =>
        http({ host: `${'h'.repeat(60)}${index}.test`, reason: NO_RULE }),
      ),
    ),
    'id',
  )
  assert.ok(text.length < 200_000)
  assert.match(text, /more: ambit why id/)
  for (const line of text.split('\n')) assert.match(line, /^(?:#|$)/)
  const order = ['# high: file', '# medium: http low.test'].map((start) =>
    text.indexOf(start.replace(' low.test', '')),
  )
  assert.ok((order[0] ?? -1) > 0 && (order[0] ?? 0) < (order[1] ?? 0))
})

test('a session that never began says how it would have', () => {
  const decision = {
    k: 'decision',
    action: 'session.start',
    effect: 'deny',
    rule: null,
    target: 'writer: ls',
  } as const
  const fold = (reason: string): string => {
    const never = new RemedyFold(null)
    never.add({ t: 0, m: 0, ...decision, reason })
    return never.result()[0]?.advice ?? ''
  }
  assert.match(fold('ERR_SHEET_REFUSED'), /answer y at a terminal, or accept it with --yes/)
  assert.match(fold('ERR_POLICY_DENIED'), /organisation's policy/)
  assert.match(fold('ERR_PATH_FORBIDDEN'), /what ambit run said then/)
})
