/** What a profile wants a person for, nobody else gives: no option, no earlier yes. And what a record of a start takes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { describe, Stage } from '../support/stage.ts'
import { atTerminal } from '../support/terminal.ts'
import { unavailable } from '../support/users.ts'

const skip = unavailable('user') ?? false

test('approvals: [start] asks a person at each start; --yes is none', { skip }, async () => {
  const stage = new Stage('user')
  const refused = await stage.session(['/bin/true'], { spec: { approvals: ['start'] } })
  assert.equal(refused.code, 126, describe(refused))
  assert.match(
    refused.stderr,
    /the profile wants a person to approve each start, and does not let --yes accept/,
  )
  const profile = stage.profile({ approvals: ['start'] })
  for (const time of ['first', 'second']) {
    const ran = await atTerminal(stage, profile)
    assert.ok(ran.asked, `${time}: ${describe(ran)}`)
    assert.equal(ran.code, 0, describe(ran))
  }
  const usual = new Stage('user')
  const plain = usual.profile()
  const asked = [await atTerminal(usual, plain), await atTerminal(usual, plain)].map((ran) => ran.asked)
  assert.deepEqual(asked, [true, false], 'control: elsewhere one yes is enough')
})

test('a command of five thousand words has a start on record, cut', { skip }, async () => {
  const stage = new Stage('user')
  const ran = await stage.session(['/bin/echo', ...Array<string>(5000).fill('word')])
  assert.equal(ran.code, 0, describe(ran))
  assert.equal(ran.stdout.split(' ').length, 5000)
  const start = (await stage.events())
    .map((event) => JSON.stringify(event))
    .find((event) => event.includes('session.start'))
  assert.match(start ?? '', /906 more/)
})
