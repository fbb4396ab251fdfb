import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decide } from '../../src/policy/decide.ts'
import type { SessionState } from '../../src/policy/decision.ts'
import type { Label, NetworkRule } from '../../src/profile/plan.ts'
import { planOf, rule } from '../gate/harness.ts'

const model = rule({
  host: 'api.example.com',
  methods: ['POST'],
  paths: ['/v1/messages*'],
  credential: 'model',
  clearance: 'internal',
})
const git = rule({ host: 'git.example.com', ports: [443, 8443], methods: ['GET', 'PROPFIND'] })
const plan = planOf([
  model,
  git,
  rule({ host: '*.cdn.example' }),
  rule({ host: 'apt.example', ports: [80], plain: true }),
  rule({ host: 'keyed.example', ports: [80], plain: true, credential: 'model' }),
])
const running: SessionState = { label: 'public', stopped: null }

interface Row {
  readonly name: string
  readonly host: string
  readonly port?: number
  readonly tls?: boolean
  readonly method?: string
  readonly path?: string
  readonly label?: Label
  readonly expected: string
}

/** The semantics table: a row is a request and the one reason that decides it. */
const TABLE: readonly Row[] = [
  {
    name: 'what the rule names',
    host: 'api.example.com',
    method: 'POST',
    path: '/v1/messages?beta=1',
    expected: 'network.rule',
  },
  {
    name: 'another path',
    host: 'api.example.com',
    method: 'POST',
    path: '/v1/files',
    expected: 'network.path-not-allowed',
  },
  {
    name: 'an odd spelling of an allowed path',
    host: 'api.example.com',
    method: 'POST',
    path: '/v1/messages/../files',
    expected: 'network.path-spelling',
  },
  {
    name: 'another method',
    host: 'api.example.com',
    method: 'GET',
    path: '/v1/messages',
    expected: 'network.method-not-allowed',
  },
  {
    name: 'N-12 another port',
    host: 'api.example.com',
    port: 22,
    method: 'POST',
    path: '/v1/messages',
    expected: 'network.port-not-allowed',
  },
  {
    name: 'N-33 a credential in the clear',
    host: 'keyed.example',
    port: 80,
    tls: false,
    expected: 'credential.plain',
  },
  {
    name: 'a label above the clearance',
    host: 'api.example.com',
    method: 'POST',
    path: '/v1/messages',
    label: 'confidential',
    expected: 'network.clearance-exceeded',
  },
  {
    name: 'a label at the clearance',
    host: 'api.example.com',
    method: 'POST',
    path: '/v1/messages',
    label: 'internal',
    expected: 'network.rule',
  },
  { name: 'another host', host: 'evil.invalid', expected: 'network.no-matching-rule' },
  { name: 'N-10 a look-alike suffix', host: 'notapi.example.com', expected: 'network.no-matching-rule' },
  { name: 'a second port of a rule', host: 'git.example.com', port: 8443, expected: 'network.rule' },
  {
    name: 'any path where none is limited',
    host: 'git.example.com',
    path: '/a/../%2f',
    expected: 'network.rule',
  },
  {
    name: 'an unusual method that the rule names',
    host: 'git.example.com',
    method: 'PROPFIND',
    expected: 'network.rule',
  },
  {
    name: 'N-30 an unusual method where all are allowed',
    host: 'x.cdn.example',
    method: 'PROPFIND',
    expected: 'http.method-unknown',
  },
  { name: 'N-30 TRACE', host: 'x.cdn.example', method: 'TRACE', expected: 'http.method-unknown' },
  { name: 'a wildcard', host: 'x.cdn.example', expected: 'network.rule' },
  { name: 'N-10 the parent of a wildcard', host: 'cdn.example', expected: 'network.no-matching-rule' },
  {
    name: 'plain HTTP where the rule says so',
    host: 'apt.example',
    port: 80,
    tls: false,
    expected: 'network.rule',
  },
  {
    name: 'plain HTTP elsewhere',
    host: 'git.example.com',
    tls: false,
    expected: 'network.plain-not-allowed',
  },
]

for (const {
  name,
  host,
  port = 443,
  tls = true,
  method = 'GET',
  path = '/',
  label = 'public',
  expected,
} of TABLE)
  test(`decides ${name}: ${expected}`, () => {
    const decision = decide({ kind: 'http.request', host, port, tls, method, path }, plan, {
      ...running,
      label,
    })
    assert.equal(decision.reason, expected)
    assert.equal(decision.effect, expected === 'network.rule' ? 'allow' : 'deny')
  })

test('N-01: no rules, no ports, no methods, no paths: nothing is allowed', () => {
  const request = {
    kind: 'http.request',
    host: 'a.example',
    port: 443,
    tls: true,
    method: 'GET',
    path: '/',
  } as const
  const denied = (network: readonly NetworkRule[]): void =>
    assert.equal(decide(request, planOf(network), running).effect, 'deny')
  denied([])
  denied([rule({ host: 'a.example', ports: [] })])
  denied([rule({ host: 'a.example', methods: [] })])
  denied([rule({ host: 'a.example', paths: [] })])
  assert.equal(decide(request, planOf([rule({ host: 'a.example' })]), running).effect, 'allow')
  assert.equal(
    decide({ kind: 'dns.query', name: 'a.example', type: 'A' }, planOf([]), running).effect,
    'deny',
  )
})

test('a stopped session is answered no, whatever the rules say', () => {
  const decision = decide({ kind: 'dns.query', name: 'api.example.com', type: 'A' }, plan, {
    ...running,
    stopped: 'frozen',
  })
  assert.deepEqual([decision.effect, decision.reason], ['deny', 'session.stopped'])
})

test('an allow carries its obligations; the credential is a name, never a value', () => {
  const action = {
    kind: 'http.request',
    host: 'api.example.com',
    port: 443,
    tls: true,
    method: 'POST',
    path: '/v1/messages',
  } as const
  const { obligations, rule: id } = decide(action, plan, running)
  assert.equal(id, model.id)
  assert.deepEqual(obligations.map((one) => one.kind).sort(), ['count-upload', 'inject', 'inspect'])
})

test('is pure: the same question has the same answer, and asking changes nothing', () => {
  const before = JSON.stringify(plan)
  const action = { kind: 'net.connect', host: 'x.cdn.example', port: 443, tls: true } as const
  assert.deepEqual(decide(action, plan, running), decide(action, plan, running))
  assert.equal(JSON.stringify(plan), before)
})
