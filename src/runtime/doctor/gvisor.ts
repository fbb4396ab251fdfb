import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { lookForRunsc } from '../gvisor.ts'
import { installHint } from '../tools.ts'
import { lacks, type Probe, tryRun, works } from './probe.ts'

/** Platforms of gVisor, fastest first; a version knows two or three of them. */
const PLATFORMS = ['kvm', 'systrap', 'ptrace'] as const

/**
 * Whether gVisor's `runsc` runs a guest, and on which platforms: each is tried, with a time limit, since KVM may open
 * and then hang. Sessions use what this version takes by itself: `runsc flags` says which one that is.
 */
export async function gvisor(path = lookForRunsc()): Promise<Probe> {
  const name = 'gVisor'
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
    const flags = await tryRun(path, ['flags'])
    const used = /^ {2}-platform .*\n.*\(default "([a-z]+)"\)$/m.exec(flags.errors)?.[1] ?? 'its own choice'
    const detail = `${path}: ${version.out.split('\n')[0]}; platforms that really run: ${run.join(', ') || 'none'}; sessions take ${used}`
    if (own) return works(name, detail, false)
    return lacks(name, detail, 'install a newer runsc: gvisor.dev/docs/user_guide/install', false)
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}
