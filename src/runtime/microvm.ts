import { availableParallelism, cpus, totalmem } from 'node:os'
import { join, relative } from 'node:path'
import { createHash } from 'node:crypto'
import { AmbitError } from '../lib/errors.ts'
import { imagesDir, nativeBinary, type Paths } from '../lib/paths.ts'
import type { Plan } from '../profile/plan.ts'
import { chooseAccelerator, distrustKvm, thisHost } from './accelerator.ts'
import { CA_BUNDLE } from './environment.ts'
import type { LaunchCell, LaunchMount, LaunchSpec } from './launch-spec.ts'
import { Digests } from './microvm-image/digests.ts'
import { findSnapshot, type FoundSnapshot, hasSnapshots, type Shape } from './microvm-image/snapshot.ts'
import { type Image, verifyImage } from './microvm-image/verify.ts'
import { osSandbox } from './os-sandbox.ts'
import type { Around, Runtime } from './runtime.ts'
import { installHint, lookForTool } from './tools.ts'

/** What a session starts; `ambit image build` puts it there. */
const IMAGE = 'default'
/** A guest needs this much for itself and a small command. */
const LEAST_MEMORY = 256 << 20

/**
 * A machine of its own, by QEMU in a cell of `ambit-launch`. The agent's kernel and system come from the image, its
 * files through the view; gate, relay and log are those of `os-sandbox`.
 */
export const microvm: Runtime = {
  name: 'microvm',
  cell: machineFor,
  open: async (spec, specPath, start) => {
    const world = await osSandbox.open(spec, specPath, start)
    const build = world.build.bind(world)
    world.build = () => build().catch((error: unknown) => doubt(spec.cell, error))
    return world
  },
}

/** What to remember when a machine does not come up with KVM. */
const withKvm = new WeakMap<LaunchCell, (why: string) => void>()

function doubt(cell: LaunchCell, error: unknown): never {
  // Not where somebody called it off, or what stands around the machine failed.
  if (error instanceof AmbitError && error.what.endsWith('machine')) withKvm.get(cell)?.(error.why)
  throw error
}

async function machineFor({ paths, plan, hostUid, note }: Around): Promise<LaunchCell> {
  const machine = await describeMachine(paths, plan.isolation, hostUid)
  const { manifest, commandLine, digest } = machine.image
  const snapshot = await machine.snapshot()
  note({
    k: 'machine.image',
    image: digest,
    kernel: manifest.kernel.sha256,
    initramfs: manifest.initramfs.sha256,
    root: manifest.root.sha256,
    commandLine: createHash('sha256').update(commandLine).digest('hex'),
    planDigest: plan.profile.digest,
    ...(snapshot && { snapshot: snapshot.verified.sha256 }),
  })
  const resumed = snapshot && ({ use: 'resume', ...snapshot } as const)
  return machine.cell(resumed, plan.profile.digest)
}

type MachineCell = Extract<LaunchCell, { kind: 'vm' }>

/** A machine of an image that was verified, and of a size. */
export interface Machine {
  readonly image: Image
  /** All that one of its snapshots was made with. */
  shape(): Promise<Shape>
  /** The one that fits it, verified; null when there is none. */
  snapshot(): Promise<FoundSnapshot | null>
  cell(snapshot: MachineCell['snapshot'], profile: string): MachineCell
}

/**
 * `hostUid`: the host's uid that QEMU runs under.
 *
 * @throws AmbitError ERR_RUNTIME_MISSING, or ERR_RUNTIME_FAILED when the image is not what was signed.
 */
export async function describeMachine(
  paths: Paths,
  isolation: Plan['isolation'],
  hostUid: number,
): Promise<Machine> {
  const qemu = lookForTool('qemu-system-x86_64')
  if (!qemu || process.arch !== 'x64')
    throw new AmbitError(
      'ERR_RUNTIME_MISSING',
      'runtime microvm',
      qemu ? 'it needs an x86-64 machine' : 'qemu-system-x86_64 is not installed',
      qemu ? undefined : installHint('qemu-system-x86'),
    )
  const swtpm = lookForTool('swtpm')
  if (!swtpm)
    throw new AmbitError(
      'ERR_RUNTIME_MISSING',
      'runtime microvm',
      'swtpm is not installed, and no machine starts unmeasured',
      installHint('swtpm'),
    )
  const digests = Digests.of(paths)
  const image = await verifyImage(join(imagesDir(paths), IMAGE), paths, digests)
  const [memory, processors] = [memoryFor(isolation.memory), processorsFor(isolation.cpus)]
  const host = thisHost(hostUid)
  const { accelerator } = await chooseAccelerator({ qemu, image }, paths, host)
  const shape = async (): Promise<Shape> => ({
    image: image.digest,
    qemu: await digests.sha256(qemu),
    launcher: await digests.sha256(nativeBinary('ambit-launch')),
    accelerator,
    memory,
    processors,
    processor: cpus()[0]?.model ?? '',
  })
  const { kernel, initramfs, root, commandLine, manifest } = image
  const { programs } = manifest
  const files = { qemu, accelerator, kernel, initramfs, root, commandLine }
  return {
    image,
    shape,
    snapshot: async () => (hasSnapshots(paths) ? findSnapshot(paths, await shape(), digests) : null),
    cell: (snapshot, profile) => {
      const measured = { swtpm, image: image.digest, profile, ...image.verified }
      const cell: MachineCell = { kind: 'vm', ...files, memory, processors, snapshot, programs, measured }
      if (accelerator === 'kvm') withKvm.set(cell, (why) => distrustKvm({ qemu, image }, paths, host, why))
      return cell
    },
  }
}

/** What the profile allows, as far as there are so many. */
const processorsFor = (allowed: number): number =>
  Math.max(1, Math.min(Math.ceil(allowed), availableParallelism()))

/** What the profile allows, but never more than half of this machine's; whole MiB. */
function memoryFor(allowed: number): number {
  const bytes = Math.max(LEAST_MEMORY, Math.min(allowed, totalmem() / 2))
  return Math.floor(bytes / 2 ** 20) * 2 ** 20
}

/** A directory or file of the host that only a machine takes through the view. */
export interface ShownPlace {
  readonly index: number
  readonly source: string
  readonly target: string
  readonly write: boolean
}

/**
 * The spec as a machine can follow it: what is a bind or plain mount elsewhere is one more root of the view, from
 * `first` on. The session's own small /etc stays a bind, which `ambit-launch` copies, but for the bundle of roots, most
 * of its bytes: a guest without KVM is slow to take them in, and many a command never asks.
 */
export function throughView(spec: LaunchSpec, first: number): { spec: LaunchSpec; shown: ShownPlace[] } {
  const shown: ShownPlace[] = []
  const show = (source: string, target: string, write: boolean): LaunchMount => {
    const index = first + shown.length
    shown.push({ index, source, target, write })
    return { kind: 'view', root: index, target }
  }
  const mounts = spec.mounts.flatMap((mount): readonly LaunchMount[] => {
    if (mount.kind === 'plain') return [show(mount.source, mount.target, false)]
    if (mount.kind !== 'bind') return [mount]
    const { source, target, write } = mount
    if (target !== '/etc') return [show(source, target, write)]
    return [mount, show(join(source, relative('/etc', CA_BUNDLE)), CA_BUNDLE, false)]
  })
  return { spec: { ...spec, mounts }, shown }
}
