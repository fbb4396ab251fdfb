import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { arch, tmpdir } from 'node:os'
import { join } from 'node:path'
import { installHint, lookForTool } from '../tools.ts'
import { lacks, type Probe, tryOpen, tryRun, works } from './probe.ts'

/** Whether gVisor's `runsc` runs; no shipped profile needs it. */
export async function gvisor(): Promise<Probe> {
  const path = lookForTool('runsc')
  if (!path) return lacks('gVisor', 'runsc is not installed', 'see gvisor.dev/docs/user_guide/install', false)
  const run = await tryRun(path, ['--version'])
  return run.ok
    ? works('gVisor', `${path}: ${run.out.split('\n')[0]}`, false)
    : lacks('gVisor', run.why, 'install runsc again', false)
}

const qemuName = (): string => `qemu-system-${arch() === 'arm64' ? 'aarch64' : 'x86_64'}`

/** Whether QEMU for this processor runs; no shipped profile needs it. */
export async function qemu(): Promise<Probe> {
  const path = lookForTool(qemuName())
  if (!path) return lacks('QEMU', `${qemuName()} is not installed`, installHint('qemu-system'), false)
  const run = await tryRun(path, ['--version'])
  return run.ok
    ? works('QEMU', `${path}: ${run.out.split('\n')[0]}`, false)
    : lacks('QEMU', run.why, installHint('qemu-system'), false)
}

/** /dev/kvm may open where no guest can run (nested, no VMX): QEMU runs one that ends itself. */
export async function kvm(): Promise<Probe> {
  const name = 'KVM'
  const error = await tryOpen('/dev/kvm')
  if (error === 'EACCES')
    return lacks(
      name,
      '/dev/kvm does not open: EACCES',
      'sudo usermod -aG kvm "$USER", then log in again',
      false,
    )
  const without = 'switch virtualisation on in the firmware; microVMs run without it, slowly'
  if (error) return lacks(name, `/dev/kvm does not open: ${error}`, without, false)
  const path = lookForTool(qemuName())
  if (!path || arch() !== 'x64') {
    return {
      name,
      state: 'partly',
      detail: '/dev/kvm opens; no guest was tried',
      remedy: installHint('qemu-system'),
      needed: false,
    }
  }
  const dir = await mkdtemp(join(tmpdir(), 'ambit-kvm-'))
  try {
    await writeFile(join(dir, 'bios'), guestThatEnds())
    const machine = ['-M', 'pc', '-accel', 'kvm', '-m', '16', '-nodefaults', '-display', 'none']
    const run = await tryRun(path, [...machine, '-bios', join(dir, 'bios'), '-device', 'isa-debug-exit'])
    if (run.status === GUEST_STATUS) return works(name, 'a guest ran', false)
    return lacks(name, `/dev/kvm opens, but a guest does not run: ${run.why}`, without, false)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** QEMU's isa-debug-exit ends with twice the value that the guest writes, plus one. */
const GUEST_STATUS = 0x2a * 2 + 1

/** 64 KiB of `hlt`; at the reset vector: mov dx,0x501; mov al,0x2a; out dx,al. */
function guestThatEnds(): Buffer {
  const bios = Buffer.alloc(65_536, 0xf4)
  Buffer.from([0xba, 0x01, 0x05, 0xb0, 0x2a, 0xee]).copy(bios, 0xfff0)
  return bios
}
