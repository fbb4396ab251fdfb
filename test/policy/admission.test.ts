import assert from 'node:assert/strict'
import { chmodSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { decideAdmission } from '../../src/policy/admission.ts'
import { checkPolicies, evaluatePolicy } from '../../src/policy/engine.ts'
import { openRuntimePolicy } from '../../src/policy/runtime.ts'
import { runPolicyTests } from '../../src/policy/test.ts'
import { loadProfile } from '../../src/profile/load.ts'
import { refuses, World } from '../profile/support.ts'

const PERSON = {
  user: { name: 'alice', uid: 1000 },
  device: { hostname: 'ledger-7', os: 'linux' },
  agent: { name: 'codex', version: '1', digest: 'aa', path: '/opt/codex' },
  accepted: true,
} as const

/** A world whose configuration holds these modules and settings. */
function withPolicy(files: Record<string, string>): World {
  const world = new World()
  for (const [name, text] of Object.entries(files)) world.write(`ambit/config/policies/${name}`, text)
  return world
}

const decideIn = (world: World, name = 'writer') =>
  decideAdmission({ ...PERSON, plan: world.compile(loadProfile(name, world.paths)) }, world.paths)

const MODULE = 'package ambit.admission\nimport rego.v1\n'

test('the shipped policy admits the shipped profiles', () => {
  using world = new World()
  for (const name of ['reader', 'writer', 'cloud']) {
    assert.deepEqual(decideIn(world, name), {
      effect: 'allow',
      reasons: [],
      runtime: null,
      raised: [],
      acceptance: null,
    })
  }
})

test('settings in data.json decide', () => {
  using world = withPolicy({
    'data.json': '{"ambit":{"config":{"allowed_profiles":["reader"],"acceptance":"terminal"}}}',
  })
  assert.deepEqual(decideIn(world), {
    effect: 'deny',
    reasons: ['profile.not-allowed'],
    runtime: null,
    raised: [],
    acceptance: 'terminal',
  })
  assert.equal(decideIn(world, 'reader').effect, 'allow')
})

test('a label raises the runtime', () => {
  using world = new World()
  const plan = world.plan('  files: [{ path: "${project}", access: read, label: regulated }]\n')
  assert.deepEqual(decideAdmission({ ...PERSON, plan }, world.paths), {
    effect: 'allow',
    reasons: [],
    runtime: 'microvm',
    raised: [{ runtime: 'microvm', reason: 'label.regulated' }],
    acceptance: 'terminal',
  })
})

test("a user's module adds reasons to deny, and cannot take one away", () => {
  using world = withPolicy({
    'acme.rego': `${MODULE}deny contains "acme.no-writers" if input.profile.name == "writer"\n`,
  })
  assert.deepEqual(decideIn(world).reasons, ['acme.no-writers'])
  assert.equal(decideIn(world, 'reader').effect, 'allow')
  using other = withPolicy({
    'data.json': '{"ambit":{"config":{"allowed_profiles":[]}}}',
    'loose.rego': `${MODULE}decision := {"effect": "allow", "reasons": [], "runtime": null, "raised": [], "acceptance": null}\n`,
  })
  const admission = decideIn(other)
  assert.equal(admission.effect, 'deny')
  assert.match(admission.reasons.join(), /policy\.failed/)
})

test("a user's module raises the runtime, and cannot lower it", () => {
  const raise = (runtime: string): string =>
    `raise contains {"runtime": "${runtime}", "reason": "acme.rule"}\n`
  using world = withPolicy({ 'acme.rego': MODULE + raise('container') })
  const { effect, runtime, raised } = decideIn(world)
  assert.deepEqual(
    { effect, runtime, raised },
    { effect: 'allow', runtime: 'container', raised: [{ runtime: 'container', reason: 'acme.rule' }] },
  )
  using risky = withPolicy({
    'acme.rego': MODULE + raise('os-sandbox'),
    'data.json': '{"ambit":{"config":{"high_risk_users":["alice"]}}}',
  })
  assert.equal(decideIn(risky).runtime, 'microvm')
})

for (const [what, text, reason] of [
  [
    'fails',
    'deny contains "x" if to_number(input.user.name) == 1\n',
    /^policy\.failed: .*broken\.rego:3:\d+/,
  ],
  ['contradicts itself', 'effect := "allow"\neffect := "deny"\n', /^policy\.failed/],
  [
    'raises to what nobody has',
    'raise contains {"runtime": "jail", "reason": "x"}\n',
    /^(policy\.malformed-decision|raise\.unknown-runtime)$/,
  ],
  ['gives reasons that are no text', 'deny contains {"a": 1}\n', /^policy\.malformed-decision$/],
  [
    'takes for ever',
    'deny contains "x" if count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i == j]) == 0\n',
    /^policy\.failed: .*time limit/,
  ],
] as const) {
  test(`a policy that ${what} denies`, () => {
    using world = withPolicy({ 'broken.rego': MODULE + text })
    const admission = decideIn(world)
    assert.equal(admission.effect, 'deny')
    assert.match(admission.reasons.join(), reason)
  })
}

test('an undefined answer denies', () => {
  using world = withPolicy({ 'extra.rego': 'package ambit.extra\nimport rego.v1\nanswer if input.never\n' })
  assert.equal(evaluatePolicy('data.ambit.extra.answer', '{}', world.paths), null)
  assert.equal(evaluatePolicy('data.ambit.extra.answer', '{"never":true}', world.paths), 'true')
  refuses('ERR_POLICY_INVALID', /not a valid rule path/, () =>
    evaluatePolicy('data.ambit.nothing', '{}', world.paths),
  )
})

test('a module that does not parse, cannot be read or is no file stops every decision', () => {
  const invalid = 'ERR_POLICY_INVALID'
  using bad = withPolicy({ 'bad.rego': 'package x\ny if {{' })
  refuses(invalid, /bad\.rego:2:8/, () => decideIn(bad))
  refuses(invalid, /bad\.rego:2:8/, () => checkPolicies(bad.paths))
  using data = withPolicy({ 'data.json': '[1]' })
  refuses(invalid, /data\.json.*object/, () => decideIn(data))
  using folder = new World()
  mkdirSync(join(folder.paths.config, 'policies', 'dir.rego'), { recursive: true })
  refuses(invalid, /not a regular file/, () => decideIn(folder))
  if (process.getuid?.() === 0) return // root reads everything
  using locked = withPolicy({ 'locked.rego': MODULE })
  chmodSync(join(locked.paths.config, 'policies', 'locked.rego'), 0)
  refuses(invalid, /EACCES/, () => decideIn(locked))
})

test('a policy cannot reach out or read the environment', () => {
  for (const call of [
    'http.send({"method": "GET", "url": "http://127.0.0.1:1"})',
    'opa.runtime().env',
    'time.now_ns()',
    'net.lookup_ip_addr("x")',
  ]) {
    using world = withPolicy({ 'out.rego': `package out\nimport rego.v1\nx := ${call}\n` })
    refuses('ERR_POLICY_INVALID', /could not find function/, () =>
      evaluatePolicy('data.out.x', '{}', world.paths),
    )
  }
})

test('reasons are escaped', () => {
  using world = withPolicy({ 'rude.rego': `${MODULE}deny contains sprintf("x%s", [input.agent.name])\n` })
  const plan = world.compile(loadProfile('reader', world.paths))
  const { reasons } = decideAdmission(
    { ...PERSON, agent: { ...PERSON.agent, name: '\x1b[2J' }, plan },
    world.paths,
  )
  assert.deepEqual(reasons, ['x\\x1b[2J'])
})

test('`ambit policy test` runs the shipped tests and reports a failing one', () => {
  using world = new World()
  const shipped = runPolicyTests(world.paths)
  assert.ok(shipped.length >= 30)
  assert.deepEqual(
    shipped.filter((result) => !result.passed),
    [],
  )
  using other = withPolicy({
    'mine_test.rego':
      'package mine_test\nimport rego.v1\ntest_no if 1 == 2\ntest_value := 3\ntest_bad if to_number("x")\n',
  })
  const mine = runPolicyTests(other.paths).filter((result) => result.name.startsWith('data.mine_test'))
  assert.deepEqual(
    mine.map(({ name, passed }) => [name, passed]),
    [
      ['data.mine_test.test_bad', false],
      ['data.mine_test.test_no', false],
      ['data.mine_test.test_value', false],
    ],
  )
})

test('runtime policy: a private session that read untrusted text asks before a new destination', () => {
  using world = new World()
  const plan = world.plan('  network: [{ host: a.example, clearance: confidential }]\n')
  const decide = openRuntimePolicy(plan, world.paths)
  const ask = (session: object, label: 'internal' | 'confidential' | 'regulated' = 'confidential') =>
    decide({
      action: { kind: 'http.request', host: 'a.example', port: 443, tls: true },
      rule: plan.network[0] ?? null,
      state: { label, stopped: null },
      session: { untrusted: true, newDestination: true, approvals: [], ...session },
    })
  assert.deepEqual(ask({}), {
    effect: 'ask',
    reason: 'runtime.trifecta',
    rule: 'network[0]',
    obligations: [],
  })
  assert.equal(ask({ untrusted: false }).effect, 'allow')
  assert.equal(ask({ approvals: ['destination:a.example'] }).effect, 'allow')
  assert.equal(ask({}, 'regulated').effect, 'deny')
})
