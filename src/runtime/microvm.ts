import { totalmem } from 'node:os'
import { join } from 'node:path'
import { createHash } from 'node:crypto'
import { AmbitError } from '../lib/errors.ts'
import { imagesDir } from '../lib/paths.ts'
import type { LaunchCell, LaunchMount, LaunchSpec } from './launch-spec.ts'
import { verifyImage } from './microvm-image/verify.ts'
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
  open: (spec, specPath, start) => osSandbox.open(spec, specPath, start),
}

async function machineFor({ paths, plan, note }: Around): Promise<LaunchCell> {
  const qemu = lookForTool('qemu-system-x86_64')
  if (!qemu || process.arch !== 'x64')
    throw new AmbitError(
      'ERR_RUNTIME_MISSING',
      'runtime microvm',
      qemu ? 'it needs an x86-64 machine' : 'qemu-system-x86_64 is not installed',
      qemu ? undefined : installHint('qemu-system-x86'),
    )
  const image = await verifyImage(join(imagesDir(paths), IMAGE), paths)
  const { manifest, commandLine } = image
  note({
    k: 'machine.image',
    image: image.digest,
    kernel: manifest.kernel.sha256,
    initramfs: manifest.initramfs.sha256,
    root: manifest.root.sha256,
    commandLine: createHash('sha256').update(commandLine).digest('hex'),
    planDigest: plan.profile.digest,
  })
  return {
    kind: 'vm',
    qemu,
    kernel: image.kernel,
    initramfs: image.initramfs,
    root: image.root,
    commandLine,
    memory: memoryFor(plan.isolation.memory),
    programs: manifest.programs,
  }
}

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
 * `first` on. The session's own small /etc stays a bind, which `ambit-launch` copies.
 */
export function throughView(spec: LaunchSpec, first: number): { spec: LaunchSpec; shown: ShownPlace[] } {
  const shown: ShownPlace[] = []
  const mounts = spec.mounts.map((mount): LaunchMount => {
    const isPlace = mount.kind === 'plain' || (mount.kind === 'bind' && mount.target !== '/etc')
    if (!isPlace) return mount
    const { source, target } = mount
    const index = first + shown.length
    shown.push({ index, source, target, write: mount.kind === 'bind' && mount.write })
    return { kind: 'view', root: index, target }
  })
  return { spec: { ...spec, mounts }, shown }
}
