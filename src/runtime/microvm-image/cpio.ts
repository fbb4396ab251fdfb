/** The initramfs, in the kernel's own form (Documentation/driver-api/early-userspace/buffer-format.rst). */

/** One entry. No owner, no time: the same entries make the same bytes. */
export interface Entry {
  readonly path: string
  /** File type and permissions, as st_mode. */
  readonly mode: number
  readonly content?: Buffer
  /** Major and minor number of a device. */
  readonly device?: readonly [number, number]
}

export const DIRECTORY = 0o040_755
export const CHARACTER_DEVICE = 0o020_666
export const PROGRAM = 0o100_755
export const FILE = 0o100_644

const NONE = Buffer.alloc(0)

/** The archive of `entries`, parents first. */
export function packCpio(entries: readonly Entry[]): Buffer {
  const all = [...entries, { path: 'TRAILER!!!', mode: 0 }]
  return Buffer.concat(all.flatMap((entry, index) => pack(entry, index + 1)))
}

function pack({ path, mode, content = NONE, device = [0, 0] }: Entry, inode: number): Buffer[] {
  const name = Buffer.from(`${path}\0`)
  const [links, time] = [1, 0]
  const fields = [inode, mode, 0, 0, links, time, content.length, 0, 0, ...device, name.length, 0]
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
  return [header, name, padding(header.length + name.length), content, padding(content.length)]
}

const padding = (length: number): Buffer => Buffer.alloc((4 - (length % 4)) % 4)
