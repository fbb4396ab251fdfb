/**
 * A delegated cgroup, which few machines that run tests have: a kernel of our own (the image's, in QEMU) has cgroup v2,
 * and native/guest/examples/cgroup.rs is all that runs on it, with the launcher's own code (native/launch/src/cgroup.rs).
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { nativeBinary } from '../../src/lib/paths.ts'
import { PROGRAM, packCpio } from '../../src/runtime/microvm-image/cpio.ts'
import { cannotBoot, testImage } from '../support/guest.ts'

const native = join(import.meta.dirname, '../../native')
const options = { skip: cannotBoot }
/** What the machine said, by what was looked at. */
const found = new Map<string, string>()

before(async () => {
  if (cannotBoot) return
  const { image } = await testImage()
  const dir = mkdtempSync(join(tmpdir(), 'ambit-cgroup-'))
  try {
    const archive = join(dir, 'init.cpio')
    writeFileSync(archive, packCpio([{ path: 'init', mode: PROGRAM, content: readFileSync(build()) }]))
    for (const line of boot(image.kernel, archive).split('\n')) {
      const [, what, finding] = /^finding ([^:]+): (.*?)\r?$/.exec(line) ?? []
      if (what !== undefined && finding !== undefined) found.set(what, finding)
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

/** Static, as the guest agent is, whose parts it shares. */
function build(): string {
  const host = /^host: (.*)$/m.exec(execFileSync('rustc', ['-vV'], { encoding: 'utf8' }))?.[1] ?? ''
  const flags = [
    '--release',
    '--locked',
    '--quiet',
    '--target',
    host,
    '-p',
    'ambit-guest',
    '--example',
    'cgroup',
  ]
  const env = { ...process.env, RUSTFLAGS: '-C target-feature=+crt-static' }
  execFileSync('cargo', ['build', ...flags], { cwd: native, env, stdio: ['ignore', 'ignore', 'inherit'] })
  return join(native, 'target', host, 'release/examples/cgroup')
}

function boot(kernel: string, initramfs: string): string {
  const machine = ['-M', 'microvm,rtc=on', '-cpu', 'max', '-accel', 'tcg', '-m', '512M', '-no-reboot']
  // As src/runtime/accelerator/boot.ts: the machine has nothing to measure its time stamp counter by.
  const rate = execFileSync(nativeBinary('ambit-launch'), ['tsc'], { encoding: 'utf8' }).trim()
  const clock = `tsc=reliable no_timer_check tsc_early_khz=${rate}`
  const line = `console=ttyS0 quiet panic=-1 reboot=t nokaslr noreplace-smp maxcpus=1 mitigations=off ${clock}`
  const start = ['-kernel', kernel, '-initrd', initramfs, '-append', line]
  const ports = ['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio']
  return execFileSync('qemu-system-x86_64', [...machine, ...start, ...ports], {
    encoding: 'utf8',
    input: '',
    timeout: 240_000,
  })
}

test('a cgroup that nobody delegated is left alone', options, () => {
  assert.equal(found.get('not delegated'), 'no delegated cgroup')
  assert.equal(found.get('delegated'), 'true')
})

test(
  'R-02 in a delegated cgroup, a file in memory that nobody maps ends what is inside, and that alone',
  options,
  () => {
    assert.equal(found.get('memory'), 'signal 9, over memory')
    assert.equal(found.get('memory, control'), 'signal 0, over none')
  },
)

test('R-01 in a delegated cgroup, a fork bomb stops at the limit', options, () => {
  // Of 20 tasks one is the bomb itself.
  assert.equal(found.get('tasks'), '19')
  assert.equal(found.get('tasks, control'), '40')
  assert.equal(found.get('processors'), 'true')
})

test('the end of a session ends what is in its group, and no other session', options, () => {
  assert.equal(found.get('ended'), 'first lives false, second lives true')
})

test('a group whose launcher was killed goes when the next one of its pid namespace comes', options, () => {
  assert.equal(found.get('before'), 'ambit-beside ambit-session-elsewhere ambit-session-forgotten')
  assert.equal(found.get('beside the next'), 'ambit-beside ambit-session-elsewhere ambit-session-next')
  assert.equal(found.get('after'), 'ambit-beside ambit-session-elsewhere')
  assert.equal(found.get('the session'), undefined)
})
