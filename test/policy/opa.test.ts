/**
 * The shipped modules give the same answers in real OPA: what a fleet tests with its own tools is what runs here.
 *
 * OPA is installed once into the user's cache; without Go the test is skipped and says so.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { admissionDocument } from '../../src/policy/admission.ts'
import { openPolicies } from '../../src/policy/engine.ts'
import { native } from '../../src/lib/native.ts'
import { installRoot } from '../../src/lib/paths.ts'
import { loadProfile } from '../../src/profile/load.ts'
import { World } from '../profile/support.ts'

const VERSION = '1.22.2'
const POLICIES = join(installRoot(), 'policies')

/** The path of OPA, or the reason why there is none. */
function opa(): { path: string } | { missing: string } {
  const dir = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'ambit-test', `opa-${VERSION}`)
  const path = join(dir, 'opa')
  if (existsSync(path)) return { path }
  if (spawnSync('go', ['version']).status !== 0) return { missing: 'go is not installed' }
  mkdirSync(dir, { recursive: true })
  const build = spawnSync('go', ['install', `github.com/open-policy-agent/opa@v${VERSION}`], {
    cwd: dir,
    encoding: 'utf8',
    env: { ...process.env, GOBIN: dir, GOFLAGS: '-mod=mod' },
  })
  assert.equal(build.status, 0, build.stderr)
  return { path }
}

interface Case {
  readonly name: string
  readonly rule: string
  readonly input: unknown
  readonly config?: unknown
}

const ADMISSION = 'data.ambit.admission.decision'
const RUNTIME = 'data.ambit.runtime.decision'

function admissionCases(): Case[] {
  using world = new World()
  const documents = ['reader', 'writer', 'cloud'].map((name) =>
    admissionDocument({
      user: { name: 'alice', uid: 1000 },
      device: { hostname: 'h', os: 'linux' },
      agent: { name: 'codex', version: null, digest: name === 'cloud' ? null : 'aa', path: '/opt/codex' },
      plan: world.compile(loadProfile(name, world.paths)),
      accepted: true,
    }),
  )
  const variants = documents.flatMap((document) => {
    const [root] = document.profile.roots
    return [
      document,
      { ...document, user: { name: 'root', uid: 0 } },
      {
        ...document,
        user: { name: 'root', uid: 0 },
        profile: { ...document.profile, roots: [{ ...root, path: '/etc/x', access: 'write' }] },
      },
      { ...document, profile: { ...document.profile, label: 'regulated' } },
      { ...document, profile: { ...document.profile, label: 'nonsense' } },
      {
        ...document,
        profile: { ...document.profile, roots: [{ ...root, via: 'mount', label: 'confidential' }] },
      },
      { ...document, profile: { ...document.profile, desktop: { clipboard: 'allow' } } },
      {
        ...document,
        profile: {
          ...document.profile,
          hosts: [{ id: 'network[0]', inspect: false, clearance: 'regulated' }],
        },
      },
      { ...document, agent: null },
    ]
  })
  const configs = [
    undefined,
    {},
    { allowed_profiles: ['reader'], allowed_users: ['alice'], agents: ['aa'] },
    { allowed_profiles: null, runtimes: { internal: 'container' }, acceptance: 'terminal' },
    { high_risk_users: ['alice'], known_agents: ['aa'], runtimes: { regulated: 'os-sandbox' } },
    { known_agents: [], agents: ['aa'] },
    { known_agents: ['bb'], runtimes: { public: 'container', confidential: 'microvm' } },
    { known_agents: 'aa', high_risk_users: [7] },
    { high_risk_user: ['alice'], mount_label: 'nonsense', acceptance: 'no' },
    { runtimes: ['microvm'] },
    'microvm',
    null,
    { runtimes: { secret: 'microvm' }, trusted_origins: ['yours'], mount_label: 'confidential' },
  ]
  const odd = [{}, [], null, 'x', 1, { profile: [] }]
  return configs.flatMap((config, c) =>
    [...variants, ...odd].map((input, i) => ({
      name: `admission config ${c} input ${i}`,
      rule: ADMISSION,
      input,
      config,
    })),
  )
}

function runtimeCases(): Case[] {
  const labels = ['public', 'internal', 'confidential', 'regulated', 'nonsense']
  const yesNo = [true, false]
  const questions = labels.flatMap((label) =>
    labels.flatMap((clearance) =>
      yesNo.flatMap((untrusted) =>
        yesNo.flatMap((fresh) =>
          [[], ['destination:a.example']].map((approvals) => ({
            action: { kind: 'http.request', host: 'a.example' },
            rule: { id: 'network[0]', clearance },
            session: { label, untrusted, new_destination: fresh, approvals },
          })),
        ),
      ),
    ),
  )
  const odd = [{}, { rule: null }, { rule: { id: 'x' } }, null, []]
  return [...questions, ...odd].map((input, index) => ({ name: `runtime ${index}`, rule: RUNTIME, input }))
}

/** All answers in one process: OPA evaluates the same rule `with` each input and configuration. */
function askOpa(path: string, cases: readonly Case[]): unknown[] {
  using world = new World()
  const questions = cases.map((c) => ({
    input: c.input,
    set: c.config !== undefined,
    config: c.config ?? null,
  }))
  const file = world.write('questions/data.json', JSON.stringify({ questions: { list: questions } }))
  const clauses = (rule: string) => `
answers[i] := v if { some i, q in data.questions.list; not q.set; data.rules[i] == "${rule}"; v := ${rule} with input as q.input }
answers[i] := v if { some i, q in data.questions.list; q.set; data.rules[i] == "${rule}"; v := ${rule} with input as q.input with data.ambit.config as q.config }
`
  const driver = world.write(
    'driver.rego',
    `package driver\nimport rego.v1\n${clauses(ADMISSION)}${clauses(RUNTIME)}`,
  )
  writeFileSync(file, JSON.stringify({ questions: { list: questions }, rules: cases.map((c) => c.rule) }))
  const modules = readdirSync(POLICIES).filter(
    (name) => name.endsWith('.rego') && !name.endsWith('_test.rego'),
  )
  const data = [file, driver, ...modules.map((name) => join(POLICIES, name))].flatMap((name) => ['-d', name])
  const run = spawnSync(
    path,
    ['eval', '--strict-builtin-errors', '--format', 'json', ...data, 'data.driver.answers'],
    {
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    },
  )
  assert.equal(run.status, 0, run.stderr + run.stdout.slice(0, 2000))
  const answers = JSON.parse(run.stdout).result[0].expressions[0].value as Record<string, unknown>
  return cases.map((_, index) => answers[index] ?? null)
}

function askOurs(cases: readonly Case[]): unknown[] {
  using world = new World()
  const engines = new Map<string, ReturnType<typeof openPolicies>>()
  return cases.map((question) => {
    const data = question.config === undefined ? '{}' : JSON.stringify({ ambit: { config: question.config } })
    const engine = engines.get(data) ?? openPolicies(world.paths)
    if (!engines.has(data)) engine.addDataJson(data)
    engines.set(data, engine)
    const answer = engine.evalRule(question.rule, JSON.stringify(question.input))
    return answer === null ? null : (JSON.parse(answer) as unknown)
  })
}

const found = opa()

test('OPA and Ambit give equal answers', { skip: 'missing' in found && found.missing }, () => {
  if ('missing' in found) return
  const cases = [...admissionCases(), ...runtimeCases()]
  const [theirs, ours] = [askOpa(found.path, cases), askOurs(cases)]
  for (const [index, question] of cases.entries()) {
    assert.deepEqual(
      ours[index],
      theirs[index],
      `${question.name}: ${JSON.stringify(question.input)?.slice(0, 300)}`,
    )
  }
  const effects = new Set(ours.map((answer) => (answer as { effect?: string } | null)?.effect))
  assert.deepEqual(effects, new Set(['allow', 'deny', 'ask']), 'the table must reach every effect')
  const raised = ours.flatMap((answer) => (answer as { raised?: { reason: string }[] } | null)?.raised ?? [])
  const reasons = new Set(raised.map(({ reason }) => reason))
  for (const reason of ['label.regulated', 'label.public', 'user.high-risk', 'agent.unknown'])
    assert.ok(reasons.has(reason), `the table must reach ${reason}`)
})

test('OPA runs the shipped tests and accepts the modules under --strict', {
  skip: 'missing' in found && found.missing,
}, () => {
  if ('missing' in found) return
  for (const args of [
    ['test', POLICIES],
    ['check', '--strict', POLICIES],
    ['fmt', '--fail', '-l', POLICIES],
  ]) {
    const run: { status: number | null; stdout: string; stderr: string } = spawnSync(found.path, args, {
      encoding: 'utf8',
    })
    assert.equal(run.status, 0, args.join(' ') + run.stdout + run.stderr)
  }
})

test('the addon is the engine that this compares (positive control)', () => {
  const Engine = native().RegoEngine
  const engine = new Engine()
  engine.addPolicy('a.rego', 'package a\nimport rego.v1\nx := input.y + 1')
  assert.equal(engine.evalRule('data.a.x', '{"y":1}'), '2')
})
