import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { arch, tmpdir } from 'node:os'
import { join } from 'node:path'
import { installHint, lookForTool } from '../tools.ts'
import { lacks, type Probe, tryOpen, tryRun, works } from './probe.ts'

/** Platforms of gVisor, fastest first; a version knows two or three of them. */
const PLATFORMS = ['kvm', 'systrap', 'ptrace'] as const

/**
 * Whether gVisor's `runsc` runs a guest, and on which platforms: each is tried, with a time limit, since KVM may open
 * and then hang. Sessions use what this version takes by itself.
 */
export async function gvisor(): Promise<Probe> {
  const name = 'gVisor'
  const path = lookForTool('runsc')
  if (!path) return lacks(name, 'runsc is not installed', installHint('runsc'), false)
  const version = await tryRun(path, ['--version'])
  if (!version.ok) return lacks(name, version.why, installHint('runsc'), false)
  const root = await mkdtemp(join(tmpdir(), 'ambit-runsc-'))
  const tries = async (platform: string | null): Promise<boolean> => {
    const chosen = platform === null ? [] : [`--platform=${platform}`]
    const flags = [
      `--root=${join(root, platform ?? 'own')}`,
      '--rootless',
      '--network=none',
      '--ignore-cgroups',
    ]
    return (await tryRun(path, [...flags, ...chosen, 'do', '/bin/true'])).ok
  }
  try {
    const [own, ...tried] = await Promise.all([null, ...PLATFORMS].map(tries))
    const run = PLATFORMS.filter((_, index) => tried[index])
    const detail = `${path}: ${version.out.split('\n')[0]}; runs on ${run.join(', ') || 'no platform'}`
    if (own) return works(name, detail, false)
    return lacks(name, detail, 'install a newer runsc: gvisor.dev/docs/user_guide/install', false)
  } finally {
    await rm(root, { recursive: true, force: true })
  }
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
