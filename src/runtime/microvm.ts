import { availableParallelism, cpus, totalmem, userInfo } from 'node:os'
import { join, relative } from 'node:path'
import { createHash } from 'node:crypto'
import { AmbitError } from '../lib/errors.ts'
import { imagesDir, nativeBinary, type Paths } from '../lib/paths.ts'
import type { Plan } from '../profile/plan.ts'
import { chooseAccelerator, distrustKvm, thisHost } from './accelerator.ts'
import { BIN } from './closure.ts'
import { inMachine } from './closure/machine.ts'
import { imageAndAccelerator, qemu, swtpm, tap } from './doctor/machines.ts'
import { CA_BUNDLE } from './environment.ts'
import type { LaunchCell, LaunchMount, LaunchSpec } from './launch-spec.ts'
import { Digests } from './microvm-image/digests.ts'
import { findSnapshot, type FoundSnapshot, hasSnapshots, type Shape } from './microvm-image/snapshot.ts'
import { type Image, verifyImage } from './microvm-image/verify.ts'
import { onThisSystem } from './os-sandbox.ts'
import type { Around, Found, Ground, Runtime, ShownPlace } from './runtime.ts'
import type { HostSystem } from './system-files.ts'
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
  words: 'a virtual machine of its own: a flaw in its kernel leads no further than into that machine',
  required: ['landlock', 'own-kernel', 'measured-start'],
  // Nobody is in the machine but the agent whom a lock of the guest's own kernel would keep from a socket. For those of
  // QEMU's cell: os-sandbox.ts.
  covered: ['unix-sockets', 'guest-landlock', 'guest-unix-sockets'],
  // No accelerator: without KVM machines are slow.
  needs: ['QEMU', 'tap', 'image', 'swtpm'],
  probe: async (paths) => (await Promise.all([qemu(), tap(), imageAndAccelerator(paths), swtpm()])).flat(),
  measured: true,
  // Without KVM a task of seconds takes a minute where there are two processors.
  patience: 600,
  find,
}

async function find({ paths, plan, hostUid, note }: Around): Promise<Ground> {
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
  const ground = onThisSystem(machine.cell(resumed, plan.profile.digest))
  return {
    ...ground,
    show: (found) => inImage(found, manifest.programs),
    // The machine's kernel knows the agent's uid as it is.
    adapt: (spec, first) => ({ ...throughView(spec, first), owner: spec.inside, etc: 'copied' }),
    open: async (specPath, start) => {
      const world = await ground.open(specPath, start)
      const build = world.build.bind(world)
      world.build = () =>
        build().catch((error: unknown) => {
          // Not where somebody called it off, or what stands around the machine failed.
          if (error instanceof AmbitError && error.what.endsWith('machine')) machine.doubt(error.why)
          throw error
        })
      return world
    },
  }
}

/** A machine has its image's system. */
function inImage(found: Found, programs: MachineCell['programs']): Found {
  const { agent, host, home } = found
  return { ...found, agent: inMachine(agent, programs, BIN), host: imageSystem(host), home: homeFor(home) }
}

/**
 * Before a machine stands the view, which is the caller; root's agents elsewhere have a uid of their own, and so homes
 * apart from these.
 */
function homeFor(home: Found['home']): Found['home'] {
  const { uid, gid } = userInfo()
  return uid === 0 ? { agent: `${home.agent} in a machine`, owner: { uid, gid } } : home
}

/** Of the host's system it is told which roots this machine trusts. */
const imageSystem = ({ roots }: HostSystem): HostSystem => ({
  mounts: [],
  etcFiles: [],
  etcDirs: [],
  roots,
  java: false,
  truststores: [],
})

type MachineCell = Extract<LaunchCell, { kind: 'vm' }>

/** A machine of an image that was verified, and of a size. */
export interface Machine {
  readonly image: Image
  /** All that one of its snapshots was made with. */
  shape(): Promise<Shape>
  /** The one that fits it, verified; null when there is none. */
  snapshot(): Promise<FoundSnapshot | null>
  cell(snapshot: MachineCell['snapshot'], profile: string): MachineCell
  /** One that was to run with KVM did not come up: the next does without. */
  doubt(why: string): void
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
      return { kind: 'vm', ...files, memory, processors, snapshot, programs, measured }
    },
    doubt: (why) => {
      if (accelerator === 'kvm') distrustKvm({ qemu, image }, paths, host, why)
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
