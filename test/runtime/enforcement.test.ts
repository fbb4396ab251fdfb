import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Control } from '../../src/audit/fact.ts'
import { AmbitError } from '../../src/lib/errors.ts'
import type { Plan } from '../../src/profile/plan.ts'
import { requireEnforced } from '../../src/runtime/enforcement.ts'

const full = (control: string): Control => ({ control, state: 'fully', detail: 'tried' })
const ALL = [
  'network-namespace',
  'pid-namespace',
  'no-new-privileges',
  'no-capabilities',
  'system-calls',
  'landlock',
].map(full)
const isolation = (limits: 'required' | 'partly') => ({ limits }) as Plan['isolation']
const refusal = (text: RegExp) => (error: unknown) =>
  error instanceof AmbitError && error.code === 'ERR_RUNTIME_NOT_ENFORCED' && text.test(error.message)

test('a session starts when everything is fully enforced', () => {
  requireEnforced([...ALL, full('memory-limit')], isolation('required'))
})

test('limits that hold in part suffice only where the profile says so', () => {
  const controls: Control[] = [...ALL, { control: 'memory-limit', state: 'partly', detail: 'a watchdog' }]
  requireEnforced(controls, isolation('partly'))
  assert.throws(
    () => requireEnforced(controls, isolation('required')),
    refusal(/memory-limit is only partly enforced \(a watchdog\)/),
  )
})

test('a limit that does not hold at all never suffices', () => {
  assert.throws(
    () =>
      requireEnforced([...ALL, { control: 'memory-limit', state: 'not', detail: '-' }], isolation('partly')),
    refusal(/memory-limit is not enforced/),
  )
})

test('no other control may be partial', () => {
  const controls = ALL.map(
    (control): Control => (control.control === 'system-calls' ? { ...control, state: 'partly' } : control),
  )
  assert.throws(() => requireEnforced(controls, isolation('partly')), refusal(/system-calls is only partly/))
})

test('a control that is not reported counts as not enforced', () => {
  assert.throws(
    () => requireEnforced(ALL.slice(1), isolation('partly')),
    refusal(/network-namespace was not reported/),
  )
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
