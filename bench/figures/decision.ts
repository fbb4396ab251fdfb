/** How long one decision takes: the compiled plan's, and one of Rego's. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Paths } from '../../src/lib/paths.ts'
import { decide } from '../../src/policy/decide.ts'
import type { Action, SessionState } from '../../src/policy/decision.ts'
import { openPolicies } from '../../src/policy/engine.ts'
import { planFacts } from '../../src/policy/facts.ts'
import { type OpenQuestion, openRuntimePolicy, runtimeDocument } from '../../src/policy/runtime.ts'
import { compilePlan } from '../../src/profile/compile.ts'
import { loadProfile } from '../../src/profile/load.ts'
import type { Plan } from '../../src/profile/plan.ts'
import { type Bench, type Figure, goal, type Table, valuesOf } from '../figure.ts'
import { attempt } from '../peers/attempt.ts'
import { cedarDecision } from '../peers/cedar.ts'
import { columnOf, type Contender, paired, quantile, spread } from '../stats.ts'

const ROUNDS = 9
const CALLS = 5_000

const PLAN = 'Ambit, compiled plan'
const REGO = 'Ambit, Rego (regorus, in-process)'
const DOCUMENT = 'the same document, a constant rule'
const CEDAR = 'Cedar wasm 4.13.0, policies parsed beforehand'

export const decision: Figure = {
  name: 'decision',
  title: 'Decision',
  async run(bench) {
    const { plan, paths } = shippedPlan(bench)
    const contenders = [
      calls('timer alone', () => undefined),
      calls(PLAN, planDecision(plan)),
      await attempt(REGO, async () => calls(REGO, regoDecision(plan, paths))),
      await attempt(DOCUMENT, async () => calls(DOCUMENT, constantRule(plan, paths))),
      await attempt(CEDAR, async () => calls(CEDAR, await cedarDecision())),
    ]
    const results = await paired(contenders, ROUNDS, 2)
    const table: Table = {
      caption: 'One decision',
      reference: null,
      columns: ['p50', 'p99'].map((title, index) => ({
        title,
        unit: 'µs',
        series: columnOf(results, index),
      })),
    }
    const median = (name: string): number | null => {
      const values = table.columns[0] && valuesOf(table.columns[0], name)
      return values ? spread(values).p50 : null
    }
    const goals = [
      goal('compiled plan: at most 5 µs p50', median(PLAN), (value) => value <= 5, ' µs'),
      goal('Rego: at most 50 µs p50', median(REGO), (value) => value <= 50, ' µs'),
    ]
    return { how: HOW, tables: [table], goals, limits: LIMITS }
  },
}

const HOW = `${CALLS} calls a round, each timed on its own by \`process.hrtime.bigint()\` (whose cost stands in the first row and
is part of the others); a cell is the median over rounds of that round's p50 or p99. The plan is the shipped \`writer\`
profile's; calls go through four actions in turn (an allowed request, a refused method, an unknown host, a DNS query).
Rego evaluates \`data.ambit.runtime.decision\` of the shipped policy, the question's JSON made for each call,
the facts of the profile, the same all session, parsed once. Cedar answers the same
question with one permit and one forbid policy.`

const LIMITS = [
  'Compiled plan: comparing strings; each rule of the profile is looked at until one admits, so it grows with the profile.',
  'Rego: the question is written as JSON by JavaScript and parsed again in Rust for each call; the row with a constant rule shows that part. Facts of the profile are parsed once a session (before: 60 µs with them in every document). The rest is regorus walking the rules. Cedar pays the same toll into WebAssembly.',
]

/** The shipped `writer` profile, for a directory that exists. */
function shippedPlan(bench: Bench): { plan: Plan; paths: Paths } {
  const at = (name: string): string => join(bench.scratch, name)
  const paths = { config: at('config'), state: at('state'), run: at('run') }
  mkdirSync(at('project'))
  const variables = { project: at('project'), workspace: at('workspace'), home: '/nonexistent' }
  return { plan: compilePlan(loadProfile('writer', paths), variables, paths), paths }
}

const STATE: SessionState = { label: 'internal', stopped: null }
const REQUEST = {
  kind: 'http.request',
  host: 'api.anthropic.com',
  port: 443,
  tls: true,
  method: 'POST',
  path: '/v1/messages?beta=true',
} as const

function planDecision(plan: Plan): () => void {
  const actions: readonly (readonly [Action, string])[] = [
    [REQUEST, 'allow'],
    [{ ...REQUEST, method: 'DELETE' }, 'deny'],
    [{ ...REQUEST, host: 'attacker.example' }, 'deny'],
    [{ kind: 'dns.query', name: 'api.openai.com', type: 'A' }, 'allow'],
  ]
  let turn = 0
  return () => {
    const [action, effect] = actions[turn++ % actions.length] ?? [REQUEST, '']
    if (decide(action, plan, STATE).effect !== effect)
      throw new Error(`decided wrongly: ${JSON.stringify(action)}`)
  }
}

const SESSION = { untrusted: true, newDestination: true, approvals: [] }

const question = (plan: Plan): OpenQuestion => ({
  action: REQUEST,
  rule: plan.network[0] ?? null,
  state: STATE,
  session: SESSION,
})

function regoDecision(plan: Plan, paths: Paths): () => void {
  const ask = openRuntimePolicy(plan, paths)
  return () => {
    const answer = ask(question(plan))
    if (answer.effect !== 'allow') throw new Error(`policy decided ${answer.effect}: ${answer.reason}`)
  }
}

/** What making, passing and parsing the document costs, with a rule that needs none of it. */
function constantRule(plan: Plan, paths: Paths): () => void {
  const engine = openPolicies(paths)
  engine.keepInput('profile', JSON.stringify(planFacts(plan)))
  return () => {
    const document = JSON.stringify(runtimeDocument(question(plan)))
    if (engine.evalRule('data.ambit.runtime.ranks', document) === null) throw new Error('no such rule')
  }
}

/** Times each of `CALLS` calls; microseconds. */
function calls(name: string, call: () => void): Contender {
  return {
    name,
    measure: async () => {
      const took = new Float64Array(CALLS)
      for (let i = 0; i < CALLS; i++) {
        const began = process.hrtime.bigint()
        call()
        took[i] = Number(process.hrtime.bigint() - began) / 1000
      }
      const sorted = [...took.sort()]
      return [quantile(sorted, 0.5), quantile(sorted, 0.99)]
    },
  }
}
