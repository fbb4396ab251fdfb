/**
 * Which accelerator a machine runs with: KVM where a guest really boots with it, else TCG. `/dev/kvm` may be there, open,
 * and never run a guest (nested, no VMX), so the image is booted once with a time limit, and the answer is kept until
 * something of what it depends on changes.
 */
import { createHash } from 'node:crypto'
import { closeSync, openSync, readFileSync, statSync } from 'node:fs'
import { z } from 'zod'
import { errnoOf, messageOf } from '../lib/errors.ts'
import type { Paths } from '../lib/paths.ts'
import { type Boot, bootsGuest, type Bootable } from './accelerator/boot.ts'
import { remembered } from './remembered.ts'

export const ACCELERATORS = ['kvm', 'tcg'] as const
export type Accelerator = (typeof ACCELERATORS)[number]

export interface Choice {
  readonly accelerator: Accelerator
  /** How that was found out; for TCG why not KVM. Printable. */
  readonly why: string
}

/** What the answer depends on, and how it is found out; tests bring their own. */
export interface Host {
  readonly device: string
  readonly boot: Boot
  /** The host's uid that QEMU runs under. */
  readonly uid: number
}

export const thisHost = (uid: number): Host => ({ device: '/dev/kvm', boot: bootsGuest, uid })

const answer = remembered(
  'accelerator',
  z.strictObject({ accelerator: z.enum(ACCELERATORS), why: z.string().max(1000) }),
)

/** Looks the answer up, or boots a guest to find it. */
export async function chooseAccelerator(bootable: Bootable, paths: Paths, host: Host): Promise<Choice> {
  const refusal = refusalOf(host)
  if (refusal) return { accelerator: 'tcg', why: refusal }
  const key = keyOf(bootable, host)
  const known = answer.recall(paths, key)
  if (known) return known
  const why = await host.boot(bootable, 'kvm', host.uid).catch(messageOf)
  const choice: Choice =
    why === null
      ? { accelerator: 'kvm', why: 'a guest booted with it' }
      : { accelerator: 'tcg', why: `${host.device} opens, but no guest boots with it: ${why}` }
  return answer.keep(paths, key, choice)
}

/** The next one who asks boots a guest again. */
export const forgetAccelerator = (paths: Paths): void => answer.forget(paths)

/** A session's machine did not come up with KVM: the next one does without, until something changes. */
export function distrustKvm(bootable: Bootable, paths: Paths, host: Host, why: string): void {
  const choice = { accelerator: 'tcg', why: `a machine did not start with KVM: ${why}` } as const
  answer.keep(paths, keyOf(bootable, host), choice)
}

function refusalOf({ device }: Host): string | null {
  try {
    closeSync(openSync(device, 'r+'))
    return null
  } catch (error) {
    return `${device} does not open: ${errnoOf(error) ?? 'unknown'}`
  }
}

/** Boot of this machine, kernel, QEMU, image, and who may open the device. */
function keyOf({ qemu, image }: Bootable, { device, uid }: Host): string {
  const stamp = (path: string): string => {
    const { ino, size, mtimeMs, mode, uid: owner, gid } = statSync(path)
    return [path, ino, size, mtimeMs, mode, owner, gid].join(' ')
  }
  const system = ['/proc/sys/kernel/random/boot_id', '/proc/sys/kernel/osrelease'].map(textOf)
  // Root's agents have a uid each, and all of them the same rights.
  const who = uid === process.getuid?.() ? [uid, ...(process.getgroups?.() ?? [])] : ['another']
  const parts = [...system, stamp(qemu), stamp(device), image.digest, ...who]
  return createHash('sha256').update(parts.join('\n')).digest('hex')
}

const textOf = (path: string): string => readFileSync(path, 'utf8').trim()
