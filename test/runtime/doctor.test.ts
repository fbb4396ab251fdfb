import assert from 'node:assert/strict'
import { test } from 'node:test'
import { probeMachine } from '../../src/runtime/doctor.ts'
import { findTool } from '../../src/runtime/tools.ts'
import { World } from '../profile/support.ts'
import { AmbitError } from '../../src/lib/errors.ts'

test('every primitive is reported with how it was found, and a remedy where it lacks', async () => {
  using world = new World()
  const report = await probeMachine(world.paths)
  const names = report.probes.map((probe) => probe.name)
  for (const name of [
    'bubblewrap',
    'user namespaces',
    'network redirect',
    'FUSE',
    'Landlock',
    'seccomp filter',
    'cgroup limits',
    'gVisor',
    'QEMU',
    'tap',
    'image',
    'accelerator',
    'swtpm',
  ])
    assert.ok(names.includes(name), name)
  for (const probe of report.probes) {
    assert.notEqual(probe.detail, '', probe.name)
    if (probe.state !== 'fully') assert.ok(probe.remedy, probe.name)
  }
  assert.equal(
    report.ready,
    report.probes.every((probe) => !probe.needed || probe.state === 'fully'),
  )
  assert.ok(report.lacking.microvm.includes('image'), 'there is none in this world')
  const image = report.probes.find(({ name }) => name === 'image')
  assert.match(image?.remedy ?? '', /ambit image build/)
})

test('a missing tool names the package and the command that installs it', () => {
  assert.throws(
    () => findTool('no-such-tool', 'some-package'),
    (error) =>
      error instanceof AmbitError &&
      error.code === 'ERR_RUNTIME_MISSING' &&
      /install.*some-package/.test(error.message),
  )
})
