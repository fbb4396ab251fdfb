/** Kernel modules for the initramfs: what is wanted, what that needs, and in which order they load. */
import { globSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { AmbitError } from '../../lib/errors.ts'

/** What the guest's devices and file systems need. What is built into a kernel is left out. */
const WANTED = [
  'virtio_mmio', 'virtio_console', 'virtio_blk', 'virtio-rng', 'virtio_net', 'virtio_balloon',
  'dm-verity', 'erofs', 'overlay', 'fuse',
] as const // biome-ignore format: a list of names

const TRAILER = Buffer.from('~Module signature appended~\n')
/** `struct module_signature`; its last four bytes are the signature's length. */
const SIGNATURE = 12

export interface Module {
  readonly name: string
  readonly content: Buffer
}

/** In loading order. `tree`: an unpacked kernel package's `lib/modules/VERSION`. Throws ERR_INPUT_INVALID. */
export function collectModules(tree: string): readonly Module[] {
  const files = new Map(
    globSync('kernel/**/*.ko', { cwd: tree }).map((path) => [
      canonical(basename(path, '.ko')),
      join(tree, path),
    ]),
  )
  const builtIn = new Set(
    readFileSync(join(tree, 'modules.builtin'), 'utf8')
      .split('\n')
      .map((path) => canonical(basename(path, '.ko'))),
  )
  const order = new Map<string, Module>()
  const add = (name: string): void => {
    if (order.has(name) || builtIn.has(name)) return
    const path = files.get(name)
    if (path === undefined)
      throw new AmbitError('ERR_INPUT_INVALID', 'the guest kernel', `it has no module ${name}`)
    const content = readFileSync(path)
    for (const needed of needs(content)) add(needed)
    order.set(name, { name: `${name}.ko`, content: withoutSignature(content) })
  }
  for (const name of WANTED) add(canonical(name))
  return [...order.values()]
}

const canonical = (name: string): string => name.replaceAll('-', '_')

/** From the `.modinfo` section: `depends=` and `softdep=pre:`, each ended by NUL. */
function needs(content: Buffer): string[] {
  const at = content.indexOf('\0depends=')
  if (at < 0) return []
  const start = at + '\0depends='.length
  const text = content.toString('latin1', start, content.indexOf(0, start))
  return text
    .split(',')
    .filter((name) => name !== '')
    .map(canonical)
}

/** The initramfs is vouched for as a whole; the kernel need not check an RSA signature for each module. */
function withoutSignature(content: Buffer): Buffer {
  if (!content.subarray(-TRAILER.length).equals(TRAILER)) return content
  const end = content.length - TRAILER.length
  const header = content.subarray(end - SIGNATURE, end)
  return content.subarray(0, end - SIGNATURE - header.readUInt32BE(8) - (header[3] ?? 0) - (header[4] ?? 0))
}
