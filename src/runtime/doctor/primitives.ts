import { nativeBinary } from '../../lib/paths.ts'
import { BUILD, lacks, parse, type Probe, read, tryOpen, tryRun, works } from './probe.ts'

/** What `ambit-launch probe` tries, in the very way that a session needs it. */
const PRIMITIVES: readonly {
  readonly key: string
  readonly name: string
  readonly remedy: () => Promise<string>
  readonly needed: boolean
  /** What is done without it, where something is. */
  readonly instead?: string
}[] = [
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
  {
    key: 'cgroup',
    name: 'cgroup limits',
    remedy: async () => 'systemd-run --user --scope -p Delegate=yes ambit run …',
    needed: false,
    instead: 'a watchdog measures memory and processes',
  },
]

/** What `ambit-launch` says of the kernel after trying each control itself. */
export async function tryLauncher(): Promise<Probe[]> {
  const run = await tryRun(nativeBinary('ambit-launch'), ['probe'])
  const report = parse(run.out)
  return Promise.all(
    PRIMITIVES.map(async ({ key, name, remedy, needed, instead }) => {
      const seen = report?.[key] as { works?: unknown; detail?: unknown } | undefined
      if (seen === undefined)
        return lacks(name, `not tried: ${run.why || 'ambit-launch says nothing of it'}`, BUILD, needed)
      const detail =
        typeof seen.detail === 'string' && seen.detail !== ''
          ? seen.detail
          : seen.works === true
            ? 'tried'
            : 'refused'
      const partly = async (what: string): Promise<Probe> => ({
        name,
        state: 'partly',
        detail: what,
        remedy: await remedy(),
        needed,
      })
      if (seen.works !== true)
        return instead ? partly(`${detail}: ${instead}`) : lacks(name, detail, await remedy(), needed)
      return isWhole(key, detail) ? works(name, detail, needed) : partly(detail)
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
