import { execFile } from 'node:child_process'
import { access, constants, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { arch, tmpdir } from 'node:os'
import { join } from 'node:path'
import { errnoOf, messageOf } from '../lib/errors.ts'
import { nativeBinary } from '../lib/paths.ts'
import { installHint, lookForTool } from './tools.ts'

/** One primitive: whether it works here, how that was found out, and what would make it work. */
export interface Probe {
  readonly name: string
  readonly state: 'fully' | 'partly' | 'not'
  readonly detail: string
  readonly remedy: string | null
  /** Without it no session starts. */
  readonly needed: boolean
}

export interface MachineReport {
  /** True when `os-sandbox` sessions can run. */
  readonly ready: boolean
  readonly probes: readonly Probe[]
}

/** Tries each primitive that a runtime needs. Tries, not reads versions: a device that opens may still not work. */
export async function probeMachine(): Promise<MachineReport> {
  const tried = tryLauncher()
  const groups: (Promise<Probe> | Promise<Probe[]>)[] = [
    kernel(),
    nativeParts(),
    ...tools(),
    tried,
    cgroups(),
    gvisor(),
    qemu(),
    kvm(),
  ]
  const probes = (await Promise.all(groups)).flat()
  return { ready: probes.every((probe) => !probe.needed || probe.state === 'fully'), probes }
}

const works = (name: string, detail: string, needed = true): Probe => ({
  name,
  state: 'fully',
  detail,
  remedy: null,
  needed,
})
const lacks = (name: string, detail: string, remedy: string, needed = true): Probe => ({
  name,
  state: 'not',
  detail,
  remedy,
  needed,
})

async function kernel(): Promise<Probe> {
  const release = (await readFile('/proc/sys/kernel/osrelease', 'utf8')).trim()
  return works('kernel', `Linux ${release} on ${arch()}`)
}

async function nativeParts(): Promise<Probe> {
  for (const name of ['ambit-launch', 'ambit-view'] as const) {
    if (!(await exists(nativeBinary(name)))) return lacks('native parts', `${name} is not built`, BUILD)
  }
  return works('native parts', 'ambit-launch and ambit-view are built')
}

const BUILD = 'run: ./dev build'

const tools = (): Promise<Probe>[] => [
  tool('bubblewrap', 'bwrap', 'bubblewrap'),
  tool('nftables', 'nft', 'nftables'),
]

async function tool(name: string, program: string, packageName: string): Promise<Probe> {
  const path = lookForTool(program)
  if (!path) return lacks(name, `${program} is not installed`, installHint(packageName))
  const run = await tryRun(path, ['--version'])
  if (run.ok) return works(name, `${path}: ${run.out.split('\n')[0]}`)
  return lacks(name, `${path} does not run: ${run.why}`, installHint(packageName))
}

/** What `ambit-launch probe` tries, in the very way that a session needs it. */
const PRIMITIVES: readonly { key: string; name: string; remedy: () => Promise<string>; needed: boolean }[] = [
  { key: 'userNamespaces', name: 'user namespaces', remedy: namespaceRemedy, needed: true },
  { key: 'networkNamespace', name: 'network namespace', remedy: namespaceRemedy, needed: true },
  {
    key: 'networkRedirect',
    name: 'network redirect',
    remedy: async () => 'sudo modprobe nft_redir nf_nat (CONFIG_NFT_REDIR)',
    needed: true,
  },
  { key: 'fuseInNamespace', name: 'FUSE', remedy: fuseRemedy, needed: true },
  { key: 'bubblewrap', name: 'nested sandbox', remedy: namespaceRemedy, needed: true },
  {
    key: 'landlock',
    name: 'Landlock',
    remedy: async () => 'Linux 6.12 or newer, booted with lsm=landlock,…',
    needed: true,
  },
  {
    key: 'seccompFilter',
    name: 'seccomp filter',
    remedy: async () => 'a kernel with CONFIG_SECCOMP_FILTER',
    needed: true,
  },
  {
    key: 'seccompNotify',
    name: 'exec sensor',
    remedy: async () => 'a kernel of 5.0 or newer with CONFIG_SECCOMP_FILTER',
    needed: true,
  },
  {
    key: 'exitCodes',
    name: 'exit codes',
    remedy: async () => 'Linux 6.15 or newer: before it, some ends are recorded without their code',
    needed: false,
  },
]

async function tryLauncher(): Promise<Probe[]> {
  const run = await tryRun(nativeBinary('ambit-launch'), ['probe'])
  const report = parse(run.out)
  return Promise.all(
    PRIMITIVES.map(async ({ key, name, remedy, needed }) => {
      const seen = report?.[key] as { works?: unknown; detail?: unknown } | undefined
      if (seen === undefined)
        return lacks(name, `not tried: ${run.why || 'ambit-launch says nothing of it'}`, BUILD, needed)
      const detail =
        typeof seen.detail === 'string' && seen.detail !== ''
          ? seen.detail
          : seen.works === true
            ? 'tried'
            : 'refused'
      if (seen.works !== true) return lacks(name, detail, await remedy(), needed)
      return isWhole(key, detail)
        ? works(name, detail, needed)
        : { name, state: 'partly' as const, detail, remedy: await remedy(), needed }
    }),
  )
}

/** Landlock keeps sockets and signals apart from ABI 6 on; enforcement.ts accepts no less. */
function isWhole(key: string, detail: string): boolean {
  return key !== 'landlock' || Number(/ABI (\d+)/.exec(detail)?.[1] ?? 0) >= 6
}

async function namespaceRemedy(): Promise<string> {
  const apparmor =
    'sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with "userns" for bwrap and ambit-launch'
  const settings = [
    ['/proc/sys/kernel/apparmor_restrict_unprivileged_userns', '1', apparmor],
    ['/proc/sys/kernel/unprivileged_userns_clone', '0', 'sudo sysctl -w kernel.unprivileged_userns_clone=1'],
    ['/proc/sys/user/max_user_namespaces', '0', 'sudo sysctl -w user.max_user_namespaces=15000'],
  ] as const
  for (const [path, bad, remedy] of settings) {
    if ((await read(path))?.trim() === bad) return remedy
  }
  return 'in a container: allow user namespaces in its seccomp profile'
}

async function fuseRemedy(): Promise<string> {
  const error = await tryOpen('/dev/fuse')
  if (error === null) return 'in a container: allow mounts in user namespaces'
  return error === 'ENOENT'
    ? 'sudo modprobe fuse; in a container: --device /dev/fuse'
    : 'sudo chmod 666 /dev/fuse'
}

/** Limits by the kernel need a delegated cgroup; without one a watchdog measures and stops. */
async function cgroups(): Promise<Probe> {
  const name = 'cgroup limits'
  const own = /^0::(.*)$/m.exec((await read('/proc/self/cgroup')) ?? '')?.[1]
  const dir = own === undefined ? null : `/sys/fs/cgroup${own}`
  const controllers = dir && (await read(`${dir}/cgroup.controllers`))
  const writable =
    dir !== null &&
    (await access(`${dir}/cgroup.procs`, constants.W_OK).then(
      () => true,
      () => false,
    ))
  if (writable && controllers?.includes('memory') && controllers.includes('pids'))
    return works(name, `delegated: ${dir}`, false)
  return {
    name,
    state: 'partly',
    detail: 'no delegated cgroup: a watchdog measures memory and processes',
    remedy: 'start Ambit in a systemd user session (systemd-run --user --scope -p Delegate=yes)',
    needed: false,
  }
}

async function gvisor(): Promise<Probe> {
  const path = lookForTool('runsc')
  if (!path) return lacks('gVisor', 'runsc is not installed', 'see gvisor.dev/docs/user_guide/install', false)
  const run = await tryRun(path, ['--version'])
  return run.ok
    ? works('gVisor', `${path}: ${run.out.split('\n')[0]}`, false)
    : lacks('gVisor', run.why, 'install runsc again', false)
}

const qemuName = (): string => `qemu-system-${arch() === 'arm64' ? 'aarch64' : 'x86_64'}`

async function qemu(): Promise<Probe> {
  const path = lookForTool(qemuName())
  if (!path) return lacks('QEMU', `${qemuName()} is not installed`, installHint('qemu-system'), false)
  const run = await tryRun(path, ['--version'])
  return run.ok
    ? works('QEMU', `${path}: ${run.out.split('\n')[0]}`, false)
    : lacks('QEMU', run.why, installHint('qemu-system'), false)
}

/** /dev/kvm may open where no guest can run (nested, no VMX): QEMU runs one that ends itself. */
async function kvm(): Promise<Probe> {
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

interface Run {
  readonly ok: boolean
  /** Exit status; null when a signal or the deadline ended it. */
  readonly status: number | null
  readonly out: string
  readonly why: string
}

function tryRun(path: string, args: readonly string[]): Promise<Run> {
  return new Promise((resolve) => {
    const options = { timeout: 5000, env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } }
    execFile(path, [...args], options, (error, stdout, stderr) => {
      const said = stderr.trim().split('\n').at(-1) ?? ''
      const status = error === null ? 0 : typeof error.code === 'number' ? error.code : null
      resolve({
        ok: error === null,
        status,
        out: stdout.trim(),
        why: said || (error ? messageOf(error) : ''),
      })
    })
  })
}

/** The errno name of the refusal, or null. */
async function tryOpen(path: string): Promise<string | null> {
  try {
    await (await open(path, 'r+')).close()
    return null
  } catch (error) {
    return errnoOf(error) ?? messageOf(error)
  }
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )
const read = (path: string): Promise<string | null> => readFile(path, 'utf8').catch(() => null)

function parse(text: string): Record<string, unknown> | null {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch {
    return null // an older launcher has no probe
  }
}
