/** Policy raises the runtime of the built command; what this machine lacks then ends the start, never lowers it. */
import assert from 'node:assert/strict'
import { chmodSync, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { ISOLATION, placeImage } from '../support/machine-stage.ts'
import { withoutPrograms } from '../support/programs.ts'
import { withoutRuntime } from '../support/runtime.ts'
import { describe, Stage } from '../support/stage.ts'
import { atTerminal } from '../support/terminal.ts'
import { type As, unavailable } from '../support/users.ts'

const KERNEL = ['/bin/sh', '-c', 'cat /proc/version; touch ran']
const hostKernel = (): string => readFileSync('/proc/version', 'utf8').trim()

/** A stage whose configuration directory has these settings of policy. */
function stageWith(as: As, config: object): Stage {
  const stage = new Stage(as)
  configure(stage, config)
  return stage
}

function configure(stage: Stage, config: object): void {
  stage.put(stage.ambitHome, { 'config/policies/data.json': JSON.stringify({ ambit: { config } }) })
  chmodSync(stage.ambitHome, 0o700)
}

const ran = (stage: Stage): boolean => existsSync(join(stage.project, 'ran'))

for (const as of ['user', 'root'] as const)
  test(`an agent that no list knows gets a container, a known one what its profile asks for, as ${as}`, {
    skip: withoutPrograms('runsc') ?? unavailable(as) ?? false,
  }, async () => {
    const stage = stageWith(as, { known_agents: [] })
    const unknown = await stage.session(KERNEL, { args: ['--runtime', 'os-sandbox'] })
    assert.equal(unknown.code, 0, describe(unknown))
    assert.notEqual(unknown.stdout.trim(), hostKernel(), 'a kernel of its own, whatever --runtime says')
    assert.equal(unknown.summary.runtime, 'container')
    const explained = await stage.ambit([
      'explain',
      '--json',
      ...stage.places(stage.latestProfile),
      '--',
      '/bin/sh',
    ])
    const sheet = JSON.parse(explained.stdout) as {
      runtime: string
      raised: string[]
      agent: { digest: string }
      lines: { text: string }[]
    }
    assert.deepEqual([sheet.runtime, sheet.raised], ['container', ['agent.unknown']])
    assert.ok(sheet.lines.some(({ text }) => /in container .*gVisor/.test(text)))
    assert.ok(sheet.lines.some(({ text }) => /profile asks for os-sandbox.*agent\.unknown/.test(text)))
    const events = await stage.events(unknown.summary.session)
    assert.ok(
      events.some(
        (event) => event.ambit.kind === 'decision' && JSON.stringify(event).includes('agent.unknown'),
      ),
      'the record names the rule',
    )
    configure(stage, { known_agents: [sheet.agent.digest] })
    const known = await stage.session(KERNEL)
    assert.equal(known.stdout.trim(), hostKernel(), describe(known))
  })

test('regulated data gets a machine once a person accepts it, other data what its profile asks for', {
  skip: withoutRuntime('microvm') ?? withoutPrograms('python3') ?? unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user', { spec: { isolation: { ...ISOLATION, runtime: 'os-sandbox' } } })
  await placeImage(stage)
  const of = (label: string) => ({ files: [{ path: '${project}', access: 'write', label }] })
  const internal = await stage.session(KERNEL, { spec: of('internal') })
  assert.equal(internal.stdout.trim(), hostKernel(), `control: ${describe(internal)}`)
  const unasked = await stage.session(['/bin/sh', '-c', 'touch unasked'], { spec: of('regulated') })
  assert.equal(unasked.code, 126, describe(unasked))
  assert.ok(!existsSync(join(stage.project, 'unasked')), 'nothing ran')
  const command = ['/bin/sh', '-c', 'cat /proc/version > kernel']
  const accepted = await atTerminal(stage, stage.profile(of('regulated')), command, { timeout: 240_000 })
  assert.ok(accepted.asked, describe(accepted))
  assert.match(accepted.stdout, /in microvm .*where the profile asks for os-sandbox/)
  const kernel = readFileSync(join(stage.project, 'kernel'), 'utf8').trim()
  assert.match(kernel, /^Linux version /)
  assert.notEqual(kernel, hostKernel(), 'a kernel of its own')
  const kinds = (await stage.events()).map((event) => event.ambit.kind as string)
  assert.equal(kinds.filter((kind) => kind === 'machine.measured').length, 1, kinds.join())
})

test('a user at high risk has no session where no machine can start, and the message says why', {
  skip: unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user')
  const { USER: name } = stage.environment()
  configure(stage, { high_risk_users: [name] })
  const refused = await stage.session(KERNEL, { args: ['--runtime', 'os-sandbox'] })
  assert.equal(refused.code, 125, describe(refused))
  assert.match(refused.stderr, /needed for user\.high-risk/)
  assert.match(refused.stderr, /ambit image build|install|x86-64/)
  assert.ok(!ran(stage), 'nothing ran')
  const doctor = await stage.ambit(['doctor', '--json'])
  const report = JSON.parse(doctor.stdout) as {
    lacking: { microvm: string[] }
    probes: { name: string; remedy: string | null }[]
  }
  assert.ok(report.lacking.microvm.length > 0)
  for (const lack of report.lacking.microvm)
    assert.ok(report.probes.find(({ name }) => name === lack)?.remedy, `${lack} says how to get it`)
  configure(stage, { high_risk_users: ['somebody-else'] })
  const control = await stage.session(KERNEL)
  assert.equal(control.code, 0, describe(control))
  assert.ok(ran(stage))
})

test('a setting of policy that nobody reads lets no session start', {
  skip: unavailable('user') ?? false,
}, async () => {
  const stage = stageWith('user', { high_risk_user: ['alice'] })
  const refused = await stage.session(KERNEL)
  assert.equal(refused.code, 126, describe(refused))
  assert.match(refused.stderr, /config\.unknown-setting:high_risk_user/)
})
