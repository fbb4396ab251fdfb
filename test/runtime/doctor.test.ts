import assert from 'node:assert/strict'
import { test } from 'node:test'
import { lackingFor, probeMachine } from '../../src/runtime/doctor.ts'
import { imageAndAccelerator } from '../../src/runtime/doctor/machines.ts'
import { cannotBoot, testImage } from '../support/guest.ts'
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

test('a machine without swtpm has all for sessions but those of a microVM, which never start unmeasured', () => {
  const tool = (name: string, state: 'fully' | 'not') => ({
    name,
    state,
    detail: name,
    remedy: null,
    needed: false,
  })
  const rest = ['gVisor', 'QEMU', 'tap', 'image'].map((name) => tool(name, 'fully'))
  const without = [...rest, tool('swtpm', 'not')]
  assert.deepEqual(lackingFor('microvm', without), ['swtpm'])
  assert.deepEqual(lackingFor('microvm', [...rest, tool('swtpm', 'fully')]), [])
  for (const runtime of ['os-sandbox', 'container'] as const)
    assert.deepEqual(lackingFor(runtime, without), [])
})

test('an image is verified and told with its age, and the accelerator by booting it', {
  skip: cannotBoot,
}, async () => {
  const { paths } = await testImage()
  const [image, accelerator] = await imageAndAccelerator(paths)
  assert.equal(image?.name, 'image')
  assert.match(image?.detail ?? '', /^verified, \d+ days old: [0-9a-f]{16}…, linux-image/)
  // Which one is chance; that it was tried is not.
  assert.match(accelerator?.detail ?? '', /^(KVM: a guest booted with it|TCG, .*not KVM: \S)/)
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
