import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Control } from '../../src/audit/fact.ts'
import { AmbitError } from '../../src/lib/errors.ts'
import type { Plan } from '../../src/profile/plan.ts'
import { container } from '../../src/runtime/container.ts'
import { REQUIRED as COMMON, requireEnforced as require } from '../../src/runtime/enforcement.ts'
import { osSandbox } from '../../src/runtime/os-sandbox.ts'

const REQUIRED = [...COMMON, ...osSandbox.required]
const requireEnforced = (controls: readonly Control[], limits: Plan['isolation']): void =>
  require(osSandbox, controls, limits)

const full = (control: string): Control => ({ control, state: 'fully', detail: 'tried' })
const ALL = REQUIRED.map(full)
const withState = (name: string, state: Control['state']): Control[] =>
  ALL.map((control) => (control.control === name ? { ...control, state, detail: 'a watchdog' } : control))
const isolation = (limits: 'required' | 'partly') => ({ limits }) as Plan['isolation']
const refusal = (text: RegExp) => (error: unknown) =>
  error instanceof AmbitError && error.code === 'ERR_RUNTIME_NOT_ENFORCED' && text.test(error.message)

test('a session starts when everything is fully enforced', () => {
  requireEnforced(ALL, isolation('required'))
})

test('limits that hold in part suffice only where the profile says so', () => {
  const controls = withState('memory-limit', 'partly')
  requireEnforced(controls, isolation('partly'))
  assert.throws(
    () => requireEnforced(controls, isolation('required')),
    refusal(/memory-limit is only partly enforced \(a watchdog\)/),
  )
})

test('a limit that does not hold at all never suffices', () => {
  assert.throws(
    () => requireEnforced(withState('memory-limit', 'not'), isolation('partly')),
    refusal(/memory-limit is not enforced/),
  )
})

for (const control of REQUIRED.filter((name) => !name.endsWith('-limit'))) {
  test(`${control} may not hold only in part`, () => {
    assert.throws(
      () => requireEnforced(withState(control, 'partly'), isolation('partly')),
      refusal(/is only partly enforced/),
    )
  })
}

test('a control that is not reported counts as not enforced', () => {
  for (const control of REQUIRED) {
    const others = ALL.filter((reported) => reported.control !== control)
    assert.throws(
      () => requireEnforced(others, isolation('partly')),
      refusal(new RegExp(`${control} was not reported`)),
    )
  }
  assert.throws(() => requireEnforced([], isolation('partly')), refusal(/landlock was not reported/))
})

test('sockets under plain mounts are covered by what is mounted; not at all is not', () => {
  requireEnforced([...ALL, { control: 'unix-sockets', state: 'partly', detail: '-' }], isolation('required'))
  assert.throws(
    () =>
      requireEnforced([...ALL, { control: 'unix-sockets', state: 'not', detail: '-' }], isolation('partly')),
    refusal(/unix-sockets is not/),
  )
})

test('a container is held to its own list: a kernel of its own, and evidence that may lag', () => {
  const all = [...COMMON, ...container.required].map(full)
  const but = (name: string, state: Control['state']): Control[] =>
    all.map((control) => (control.control === name ? { ...control, state } : control))
  require(container, but('exec-sensor', 'partly'), isolation('required'))
  for (const name of ['own-kernel', 'sentry-confined', 'gofer-confined', 'unix-sockets'])
    assert.throws(() => require(container, but(name, 'partly'), isolation('partly')), refusal(/only partly/))
  assert.throws(() => require(container, ALL, isolation('partly')), refusal(/own-kernel was not reported/))
})
