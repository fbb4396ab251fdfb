import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Judge } from '../../src/gate/judge.ts'
import { resolvePaths } from '../../src/lib/paths.ts'
import type { Decision } from '../../src/policy/decision.ts'
import { openRuntimePolicy } from '../../src/policy/runtime.ts'
import type { Label } from '../../src/profile/plan.ts'
import { planOf, rule } from './harness.ts'

const plan = planOf([
  rule({ id: 'network[0]', host: 'model.test', clearance: 'confidential', credential: 'key' }),
  rule({ id: 'network[1]', host: 'web.test', clearance: 'confidential' }),
  rule({ id: 'network[2]', host: 'other.test', clearance: 'confidential' }),
])

interface Asking {
  readonly ask: (host: string, id: string, label: Label) => string
  readonly sent: (host: string, id: string) => void
  readonly asked: () => number
}

/** The shipped policy, and a count of how often it was asked. */
function judge(): Asking {
  const policy = openRuntimePolicy(plan, resolvePaths({ AMBIT_HOME: '/nonexistent/ambit-judge-test' }))
  let asked = 0
  const judge = new Judge(plan, (question) => {
    asked++
    return policy(question)
  })
  return {
    ask: (host, id, label) => {
      const allowed: Decision = { effect: 'allow', reason: 'network.rule', rule: id, obligations: [] }
      const action = { kind: 'http.request', host, port: 443, tls: true, method: 'GET', path: '/' } as const
      const answer = judge.judge(action, allowed, { label, stopped: null })
      return `${answer.effect} ${answer.reason}`
    },
    sent: (host, id) =>
      judge.sent(
        host,
        plan.network.find((candidate) => candidate.id === id),
      ),
    asked: () => asked,
  }
}

test('B-33: private data, untrusted content and a new destination together need a person', () => {
  const { ask, sent } = judge()
  assert.equal(
    ask('web.test', 'network[1]', 'confidential'),
    'allow network.rule',
    'control: nothing untrusted yet',
  )
  sent('web.test', 'network[1]')
  assert.equal(
    ask('other.test', 'network[2]', 'internal'),
    'allow network.rule',
    'control: nothing private read',
  )
  assert.equal(ask('web.test', 'network[1]', 'confidential'), 'allow network.rule', 'control: not new')
  assert.equal(ask('other.test', 'network[2]', 'confidential'), 'ask runtime.trifecta')
})

test('answers of a host that holds a credential of the user are not untrusted content', () => {
  const { ask, sent } = judge()
  sent('model.test', 'network[0]')
  assert.equal(ask('other.test', 'network[2]', 'confidential'), 'allow network.rule')
})

test('the policy is asked once for the same facts, and again when the label rises', () => {
  const { ask, asked } = judge()
  for (let i = 0; i < 5; i++) ask('web.test', 'network[1]', 'internal')
  assert.equal(asked(), 1)
  assert.equal(ask('web.test', 'network[1]', 'regulated'), 'deny runtime.label-above-clearance')
  assert.equal(asked(), 2)
})

test('a policy that fails denies', () => {
  const failing = new Judge(plan, () => ({
    effect: 'deny',
    reason: 'policy.failed',
    rule: null,
    obligations: [],
  }))
  const allowed: Decision = { effect: 'allow', reason: 'network.rule', rule: 'network[0]', obligations: [] }
  const action = { kind: 'net.connect', host: 'model.test', port: 443, tls: true } as const
  assert.equal(failing.judge(action, allowed, { label: 'public', stopped: null }).effect, 'deny')
})
