/** `ambit image build`: kernel, initramfs and root image from Debian's packages, with a signed manifest. */
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../../lib/make-dir.ts'
import { AmbitError } from '../../lib/errors.ts'
import { installRoot, keysDir, type Paths } from '../../lib/paths.ts'
import { findTool } from '../tools.ts'
import { CHARACTER_DEVICE, DIRECTORY, type Entry, FILE, PROGRAM, packCpio } from './cpio.ts'
import { formatManifest, type ImageFile, MANIFEST, type Manifest, SIGNATURE } from './manifest.ts'
import { loadOrMakeImageKey, signContent } from './minisign.ts'
import { unpackKernel } from './kernel.ts'
import { collectModules } from './modules.ts'
import { fetchPackages, type Package, unpack } from './packages.ts'
import { runTool } from './tool.ts'
import { finishTree, measurePrograms } from './tree.ts'

/** Nothing of the time and place of a build shows in the image. */
const EPOCH = '1577836800'
const UUID = '616d6269-7420-696d-6167-650000000000'
const BLOCK = 4096

/**
 * What the guest kernel is told. Devices come from ACPI; nothing is probed that the machine does not have; a panic
 * ends the machine (QEMU runs with -no-reboot). It boots on one processor, which costs a second less without KVM, and
 * `ambit-guest` brings up the others. Fresh memory is not cleared for the kernel's own use: all of it is one session's.
 */
const COMMAND_LINE = [
  'quiet', 'loglevel=1', 'panic=-1', 'reboot=t', 'lsm=landlock,yama', 'random.trust_cpu=on', 'tsc=reliable', 'no_timer_check',
  'cryptomgr.notests', 'rcupdate.rcu_expedited=1', '8250.nr_uarts=0', 'nokaslr', 'noreplace-smp', 'maxcpus=1', 'init_on_alloc=0',
] // biome-ignore format: a list of words

export interface BuildOptions {
  /** Where the image goes; replaced as a whole. */
  readonly out: string
  /** Keeps what was fetched. */
  readonly cache: string
  readonly paths: Paths
  readonly say: (line: string) => void
}

/** Builds and signs an image; gives its manifest. Throws ERR_RUNTIME_MISSING or ERR_RUNTIME_FAILED. */
export async function buildImage({ out, cache, paths, say }: BuildOptions): Promise<Manifest> {
  if (process.arch !== 'x64')
    throw new AmbitError('ERR_RUNTIME_MISSING', 'building the image', 'the microvm machine is x86-64 only')
  const tools = {
    erofs: findTool('mkfs.erofs', 'erofs-utils'),
    verity: findTool('veritysetup', 'cryptsetup-bin'),
  }
  const work = `${out}.new`
  fs.rmSync(work, { recursive: true, force: true })
  makeDir(work)
  makeDir(cache)
  const trees = fs.mkdtempSync(join(cache, 'build-'))
  try {
    say("fetching packages from this machine's Debian mirror")
    const { root, kernel } = await fetchPackages(cache)
    say(`unpacking ${root.length} packages`)
    const [rootTree, kernelTree] = [join(trees, 'root'), join(trees, 'kernel')]
    for (const tree of [rootTree, kernelTree]) fs.mkdirSync(tree)
    await unpack(root, rootTree)
    await runTool(findTool('dpkg-deb', 'dpkg'), ['-x', kernel.path, kernelTree])
    finishTree(rootTree)
    say('making the root image')
    const image = join(work, 'root.erofs')
    const compress = ['-zlz4hc', '-x-1', '-T', EPOCH, '-U', UUID, '--all-root', '--quiet']
    await runTool(tools.erofs, [...compress, image, rootTree])
    const verity = await addHashTree(tools.verity, image)
    const boot = bootFiles(kernelTree, kernel)
    await unpackKernel(boot.kernel, join(work, 'vmlinux'))
    fs.writeFileSync(join(work, 'initramfs.cpio'), boot.initramfs)
    const manifest: Manifest = {
      v: 1,
      architecture: 'x86_64',
      kernel: describe(work, 'vmlinux'),
      initramfs: describe(work, 'initramfs.cpio'),
      root: describe(work, 'root.erofs'),
      commandLine: [...COMMAND_LINE, `ambit.root=${verity.blocks}:${verity.hash}:${verity.salt}`].join(' '),
      verity,
      packages: [kernel, ...root].map(({ name, version }) => `${name} ${version}`),
      programs: measurePrograms(rootTree),
    }
    say('signing')
    seal(work, manifest, paths)
    fs.rmSync(out, { recursive: true, force: true })
    fs.renameSync(work, out)
    return manifest
  } finally {
    fs.rmSync(trees, { recursive: true, force: true })
    fs.rmSync(work, { recursive: true, force: true })
  }
}

/** Appends the tree of digests to the image. The salt is fixed: it guards against nothing where the root hash is signed. */
async function addHashTree(tool: string, image: string): Promise<Manifest['verity']> {
  const size = fs.statSync(image).size
  const blocks = Math.ceil(size / BLOCK)
  fs.truncateSync(image, blocks * BLOCK)
  const salt = createHash('sha256').update('ambit root image').digest('hex')
  const options = [
    '--no-superblock',
    `--hash-offset=${blocks * BLOCK}`,
    `--data-blocks=${blocks}`,
    `--salt=${salt}`,
  ]
  const said = await runTool(tool, ['format', image, image, ...options])
  const hash = /^Root hash:\s+([0-9a-f]{64})$/m.exec(said)?.[1]
  if (!hash)
    throw new AmbitError('ERR_RUNTIME_FAILED', 'making the root image', 'veritysetup named no root hash')
  return { blocks, hash, salt }
}

function bootFiles(tree: string, kernel: Package): { kernel: Buffer; initramfs: Buffer } {
  const version = kernel.name.replace('linux-image-', '')
  const modules = collectModules(join(tree, 'lib/modules', version))
  const guest = join(installRoot(), '.build/bin/ambit-guest')
  const entries: Entry[] = [
    { path: 'dev', mode: DIRECTORY },
    { path: 'dev/console', mode: CHARACTER_DEVICE, device: [5, 1] },
    { path: 'dev/null', mode: CHARACTER_DEVICE, device: [1, 3] },
    { path: 'init', mode: PROGRAM, content: fs.readFileSync(guest) },
    { path: 'modules', mode: DIRECTORY },
    {
      path: 'modules/order',
      mode: FILE,
      content: Buffer.from(modules.map(({ name }) => `${name}\n`).join('')),
    },
    ...modules.map(({ name, content }): Entry => ({ path: `modules/${name}`, mode: FILE, content })),
  ]
  return { kernel: fs.readFileSync(join(tree, `boot/vmlinuz-${version}`)), initramfs: packCpio(entries) }
}

function describe(dir: string, name: string): ImageFile {
  const content = fs.readFileSync(join(dir, name))
  return { name, size: content.length, sha256: createHash('sha256').update(content).digest('hex') }
}

function seal(dir: string, manifest: Manifest, paths: Paths): void {
  const bytes = Buffer.from(formatManifest(manifest))
  const signature = signContent(
    bytes,
    loadOrMakeImageKey(keysDir(paths)),
    `ambit microVM image, ${manifest.packages[0]}`,
  )
  fs.writeFileSync(join(dir, MANIFEST), bytes)
  fs.writeFileSync(join(dir, SIGNATURE), signature)
}
