import { readFile } from 'node:fs/promises'
import { arch } from 'node:os'
import { nativeBinary } from '../lib/paths.ts'
import type { Paths } from '../lib/paths.ts'
import { RUNTIMES, type RuntimeName } from '../profile/plan.ts'
import { tryLauncher } from './doctor/primitives.ts'
import { BUILD, exists, lacks, type Probe, tryRun, works } from './doctor/probe.ts'
import { runtimes } from './runtimes.ts'
import { installHint, lookForTool } from './tools.ts'

export interface MachineReport {
  /** True when sessions of the weakest runtime can run. */
  readonly ready: boolean
  /** What sessions of each runtime lack here: names of probes. Empty: they can run. */
  readonly lacking: Readonly<Record<RuntimeName, readonly string[]>>
  readonly probes: readonly Probe[]
}

/** Tries each primitive that a runtime needs. Tries, not reads versions: a device that opens may still not work. */
export async function probeMachine(paths: Paths): Promise<MachineReport> {
  const tried = tryLauncher()
  const groups: (Promise<Probe> | Promise<Probe[]>)[] = [
    kernel(),
    nativeParts(),
    ...tools(),
    tried,
    ...RUNTIMES.map((name) => runtimes[name].probe(paths)),
  ]
  const probes = (await Promise.all(groups)).flat()
  const lacking = {} as Record<RuntimeName, readonly string[]>
  for (const name of RUNTIMES) lacking[name] = lackingFor(name, probes)
  return { ready: lacking[RUNTIMES[0]].length === 0, lacking, probes }
}

/** Names of the probes for want of which no session of `runtime` starts. */
export function lackingFor(runtime: RuntimeName, probes: readonly Probe[]): string[] {
  return probes
    .filter((probe) => probe.needed || runtimes[runtime].needs.includes(probe.name))
    .filter(({ needed, state }) => (needed ? state !== 'fully' : state === 'not'))
    .map(({ name }) => name)
}

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

const tools = (): Promise<Probe>[] => [tool('bubblewrap', 'bwrap', 'bubblewrap')]

async function tool(name: string, program: string, packageName: string): Promise<Probe> {
  const path = lookForTool(program)
  if (!path) return lacks(name, `${program} is not installed`, installHint(packageName))
  const run = await tryRun(path, ['--version'])
  if (run.ok) return works(name, `${path}: ${run.out.split('\n')[0]}`)
  return lacks(name, `${path} does not run: ${run.why}`, installHint(packageName))
}
