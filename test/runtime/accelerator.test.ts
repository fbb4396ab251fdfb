/**
 * KVM where a guest really boots with it. Whether it does on the machine of the tests is chance, so the answer of the
 * boot is brought along here; the boot itself is tried with TCG, and with programs that hang or end.
 */
import assert from 'node:assert/strict'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  chooseAccelerator,
  distrustKvm,
  forgetAccelerator,
  type Host,
} from '../../src/runtime/accelerator.ts'
import { type Bootable, bootsGuest } from '../../src/runtime/accelerator/boot.ts'
import { World } from '../profile/support.ts'
import { cannotBoot, testImage } from '../support/guest.ts'
import { commandOf, eventually } from '../support/processes.ts'

const OWN = process.getuid?.() ?? 0

/** A world with a device that opens, a QEMU, an image; and how often a guest was booted there. */
function place(why: string | null) {
  const world = new World()
  const file = (name: string): string => world.write(name, name)
  const [kernel, initramfs, root] = [file('kernel'), file('initramfs'), file('root')]
  const image = { kernel, initramfs, root, commandLine: 'quiet', digest: 'aa' }
  const bootable: Bootable = { qemu: file('qemu'), image }
  const boots: string[] = []
  const host: Host = {
    device: file('kvm'),
    uid: OWN + 1,
    boot: async (_, accelerator) => {
      boots.push(accelerator)
      return why
    },
  }
  return { world, bootable, host, boots, paths: world.paths }
}

test('a guest that boots makes it KVM, and it is not asked again until something changes', async () => {
  const { world, bootable, host, boots, paths } = place(null)
  const ask = (change: Partial<Host> = {}, other: Bootable = bootable) =>
    chooseAccelerator(other, paths, { ...host, ...change })
  assert.deepEqual(await ask(), { accelerator: 'kvm', why: 'a guest booted with it' })
  await ask()
  assert.deepEqual(boots, ['kvm'])
  await ask({ uid: OWN + 2 }) // of other accounts one has the rights of the next
  assert.deepEqual(boots, ['kvm'])
  await ask({ uid: OWN })
  await ask({}, { ...bootable, image: { ...bootable.image, digest: 'bb' } })
  assert.equal(boots.length, 3)
  writeFileSync(bootable.qemu, 'another version')
  await ask()
  chmodSync(host.device, 0o666)
  await ask()
  assert.equal(boots.length, 5)
  writeFileSync(join(paths.state, 'cache/accelerator.json'), '{"key":')
  await ask()
  forgetAccelerator(paths)
  await ask()
  assert.equal(boots.length, 7)
  world[Symbol.dispose]()
})

test('a device that is not there or does not open is not tried', async () => {
  using world = place(null).world
  const { bootable, host, boots, paths } = place(null)
  const absent = await chooseAccelerator(bootable, paths, { ...host, device: join(world.dir, 'none') })
  assert.deepEqual(absent, {
    accelerator: 'tcg',
    why: `${join(world.dir, 'none')} does not open: ENOENT`,
  })
  assert.deepEqual(boots, [])
})

test('a device that opens and boots no guest is TCG, with the reason, and the next start does not wait for it', async () => {
  const { bootable, host, boots, paths } = place('no word from it within 8 s')
  for (let round = 0; round < 2; round++) {
    const { accelerator, why } = await chooseAccelerator(bootable, paths, host)
    assert.equal(accelerator, 'tcg')
    assert.match(why, /opens, but no guest boots with it: no word/)
  }
  assert.equal(boots.length, 1)
})

test('after a machine that did not come up with KVM the next one does without', async () => {
  const { bootable, host, paths } = place(null)
  assert.equal((await chooseAccelerator(bootable, paths, host)).accelerator, 'kvm')
  distrustKvm(bootable, paths, host, 'no answer within 25 s')
  const { accelerator, why } = await chooseAccelerator(bootable, paths, host)
  assert.equal(accelerator, 'tcg')
  assert.match(why, /did not start with KVM: no answer/)
})

test('a QEMU that hangs is ended in time, one that ends says why', { skip: cannotBoot }, async () => {
  const { world, bootable } = place(null)
  const mark = join(world.dir, 'pid')
  const script = (text: string): Bootable => {
    const qemu = world.write('bin/qemu', `#!/bin/sh\n${text}\n`)
    chmodSync(qemu, 0o755)
    return { ...bootable, qemu }
  }
  const hangs = script(`echo $$ > ${mark}; exec sleep 60`)
  const started = performance.now()
  assert.match((await bootsGuest(hangs, 'kvm', 0, 3000)) ?? '', /no word from it within 3 s/)
  assert.ok(performance.now() - started < 20_000)
  const pid = readFileSync(mark, 'utf8').trim()
  assert.ok(await eventually(() => commandOf(Number(pid)) === ''), 'it still runs')
  const ends = script('echo first >&2; echo "\x1b[31mno KVM" >&2; exit 1')
  assert.equal(await bootsGuest(ends, 'kvm', 0), '\\x1b[31mno KVM')
  world[Symbol.dispose]()
})

test('control: the same boot, of the image and with TCG, brings the guest to speak', {
  skip: cannotBoot,
}, async () => {
  const { image } = await testImage()
  const bootable = { qemu: '/usr/bin/qemu-system-x86_64', image }
  assert.equal(await bootsGuest(bootable, 'tcg', process.getuid?.() ?? 0, 90_000), null)
})
