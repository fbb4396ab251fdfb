/** K: whose credential goes where: one a host, one a session, and no helper of a repository asked for one. */
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import {
  attack,
  get,
  KEY,
  netStage,
  REAL_KEY,
  refused,
  rule,
  sh,
  watching,
  wire,
} from '../support/net-stage.ts'
import { describe, type Steps } from '../support/stage.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

attack('K-04', 'knows one credential for a host, or does not start', async (as) => {
  const stage = await netStage(as)
  const second = { ...KEY, name: 'second', source: 'env:SECOND', env: 'SECOND_KEY' }
  const twice = [
    rule(stage, 'key.test', { credential: 'key' }),
    rule(stage, 'key.test', { credential: 'second' }),
  ]
  const wild = [
    rule(stage, '*.wild.test', { credential: 'key' }),
    rule(stage, 'a.wild.test', { credential: 'second' }),
  ]
  for (const network of [twice, wild]) {
    const check = await stage.ambit([
      'profile',
      'check',
      stage.profile({ network, credentials: [KEY, second] }),
    ])
    assert.notEqual(check.code, 0, JSON.stringify(network))
  }
  const one = await stage.ambit([
    'profile',
    'check',
    stage.profile({ network: twice.slice(0, 1), credentials: [KEY, second] }),
  ])
  assert.equal(one.code, 0, `control: ${describe(one)}`)
  return 'two rules for one host are refused at load'
})

attack('K-05', 'gives each session its own value of a variable', async (as) => {
  const stage = await netStage(as)
  const spec = { network: [rule(stage, 'key.test', { credential: 'key' })], credentials: [KEY] }
  const one = (mark: string): Promise<Steps> =>
    stage.inside(
      [
        sh('use', `curl -sS -m 30 -H "x-api-key: $API_KEY" https://key.test/${mark}`),
        { name: 'env', op: 'env' },
      ],
      {
        spec,
        env: { REAL_KEY: `sk-value-of-${mark}-000000` },
      },
    )
  const seen = await watching(async () => await Promise.all([one('first'), one('second')]))
  const got = Object.fromEntries(seen.arrived.map(({ url, headers }) => [url, headers['x-api-key']]))
  assert.deepEqual(got, { '/first': 'sk-value-of-first-000000', '/second': 'sk-value-of-second-000000' })
  const [a, b] = seen.value.map((steps) => steps.result('env').value.API_KEY)
  assert.ok(a && b && a !== b, 'each has a placeholder of its own')
  return 'two sessions at once, each its own'
})

attack('K-07', 'refuses a credential for a host that no rule names', async (as) => {
  const stage = await netStage(as)
  const unknown = await stage.ambit([
    'profile',
    'check',
    stage.profile({ network: [rule(stage, 'key.test', { credential: 'nobody' })] }),
  ])
  assert.notEqual(unknown.code, 0)
  const opaque = [rule(stage, 'key.test', { credential: 'key', inspect: false })]
  const uninspected = await stage.ambit([
    'profile',
    'check',
    stage.profile({ network: opaque, credentials: [KEY] }),
  ])
  assert.notEqual(uninspected.code, 0, 'a credential where nothing is inspected')
  const seen = await watching(() =>
    stage.inside(
      [
        sh(
          'use',
          'curl -sS -m 5 -H "x-api-key: $API_KEY" https://other.test/k07; curl -sS -m 5 https://evil.test/',
        ),
      ],
      {
        spec: { network: [rule(stage, 'other.test')], credentials: [KEY] },
        env: { REAL_KEY },
      },
    ),
  )
  assert.ok(!seen.arrived.some((request) => wire(request).includes(REAL_KEY)))
  assert.equal(seen.evil, 0)
  const fine = await stage.ambit([
    'profile',
    'check',
    stage.profile({ network: [rule(stage, 'key.test', { credential: 'key' })], credentials: [KEY] }),
  ])
  assert.equal(fine.code, 0, `control: ${describe(fine)}`)
  return 'unknown or uninspectable: refused at load; unused: goes nowhere'
})

attack('K-09', 'takes no placeholder of another session', async (as) => {
  const stage = await netStage(as)
  const spec = { network: [rule(stage, 'key.test', { credential: 'key' })], credentials: [KEY] }
  const first = await stage.inside([{ name: 'env', op: 'env' }], { spec, env: { REAL_KEY } })
  const old = first.result('env').value.API_KEY as string
  const guess = old.slice(0, -4) + 'abcd'
  const seen = await watching(() =>
    stage.inside(
      [
        get('ended', 'https://key.test/ended', { headers: { 'x-api-key': old } }),
        get('guessed', 'https://key.test/guessed', { headers: { 'x-api-key': guess } }),
        sh('own', 'curl -sS -m 5 -H "x-api-key: $API_KEY" https://key.test/own'),
      ],
      { spec, env: { REAL_KEY } },
    ),
  )
  assert.deepEqual(
    seen.arrived.map(({ url }) => url),
    ['/own'],
    'control: its own passes, nothing else',
  )
  return refused(seen.value, ['ended', 'guessed'])
})

attack('K-12', 'runs no helper that a repository configures', async (as) => {
  const stage = await netStage(as)
  const mark = join(stage.outside, 'helper-ran')
  const script = `!touch ${mark}`
  const git = (...args: string[]): Promise<unknown> => stage.command(['git', ...args])
  await git('init', '-q')
  for (const [key, value] of [
    ['credential.helper', script],
    ['core.fsmonitor', `touch ${mark}-fsmonitor; false`],
    ['core.sshCommand', `touch ${mark}-ssh`],
    ['core.askPass', `${stage.outside}/askpass`],
    ['filter.x.clean', `touch ${mark}-filter`],
    ['diff.external', `touch ${mark}-diff`],
  ] as const)
    await git('config', key, value)
  stage.put(stage.project, { '.gitattributes': '* filter=x\n', '.env': 'SECRET=1\n' })
  const hide = { files: [{ path: '${project}', access: 'review' }], hide: ['**/.env'] }
  const ran = await stage.inside([{ name: 'write', op: 'write', path: join(stage.project, 'new.txt') }], {
    spec: hide,
  })
  await stage.ambit(['review', ran.summary.session])
  await stage.ambit(['review', ran.summary.session, 'diff'])
  await stage.ambit(['review', ran.summary.session, 'apply'])
  const ranOutside = (): string[] =>
    readdirSync(stage.outside).filter((name) => name.startsWith('helper-ran'))
  assert.deepEqual(ranOutside(), [])
  await git('status')
  assert.ok(ranOutside().length > 0, 'control: git itself runs them')
  return 'none ran at start, review or apply'
})
