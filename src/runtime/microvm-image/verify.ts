/** Before an image starts: is it what this account's key signed? */
import { createHash } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { AmbitError, errnoOf, messageOf } from '../../lib/errors.ts'
import { keysDir, type Paths } from '../../lib/paths.ts'
import { printable } from '../../lib/printable.ts'
import type { VerifiedFile } from '../launch-spec.ts'
import { Digests, fileIdentity } from './digests.ts'
import { type ImageFile, MANIFEST, type Manifest, type Part, parseManifest, SIGNATURE } from './manifest.ts'
import { loadImageKey, reasonToDistrust } from './minisign.ts'

const REMEDY = 'build it anew: ambit image build'
const MAX_MANIFEST = 8 << 20

/** An image that was verified: where its parts are, and what vouches for them. */
export interface Image {
  readonly dir: string
  readonly kernel: string
  readonly initramfs: string
  /** The root file system with its hash tree; the guest checks it again, block by block. */
  readonly root: string
  readonly commandLine: string
  /** SHA-256 of the manifest's bytes: names the image as a whole. */
  readonly digest: string
  readonly manifest: Manifest
  readonly verified: Readonly<Record<Part, VerifiedFile>>
}

/**
 * Checks the signature of the manifest in `dir` by this account's image key, and each part against it.
 *
 * Throws ERR_RUNTIME_MISSING when there is no image, ERR_RUNTIME_FAILED when it is not what was signed.
 */
export async function verifyImage(dir: string, paths: Paths, digests = Digests.of(paths)): Promise<Image> {
  const bytes = read(join(dir, MANIFEST), dir)
  const manifest = trusted(dir, bytes, paths)
  const [kernel, initramfs, root] = await Promise.all([
    check(dir, 'kernel', manifest.kernel, digests),
    check(dir, 'initramfs', manifest.initramfs, digests),
    check(dir, 'root', manifest.root, digests),
  ])
  const place = (part: Part): string => join(dir, manifest[part].name)
  return {
    dir,
    kernel: place('kernel'),
    initramfs: place('initramfs'),
    root: place('root'),
    commandLine: manifest.commandLine,
    digest: createHash('sha256').update(bytes).digest('hex'),
    manifest,
    verified: { kernel, initramfs, root },
  }
}

function trusted(dir: string, bytes: Buffer, paths: Paths): Manifest {
  const key = loadImageKey(keysDir(paths))
  if (!key) throw refused(dir, 'this account has no image key, so nothing here was signed by it')
  const why = reasonToDistrust(bytes, read(join(dir, SIGNATURE), dir).toString('latin1'), key)
  if (why !== null) throw refused(dir, `${MANIFEST}: ${why}`)
  try {
    return parseManifest(bytes)
  } catch {
    throw refused(dir, `${MANIFEST}: it is of another version`)
  }
}

function read(path: string, dir: string): Buffer {
  try {
    if (statSync(path).size > MAX_MANIFEST) throw refused(dir, 'its manifest is too long')
    return readFileSync(path)
  } catch (error) {
    if (error instanceof AmbitError) throw error
    if (errnoOf(error) === 'ENOENT' && path.endsWith(MANIFEST))
      throw new AmbitError(
        'ERR_RUNTIME_MISSING',
        'the microVM image',
        `there is none in ${printable(dir)}`,
        'run: ambit image build',
      )
    throw refused(dir, errnoOf(error) === 'ENOENT' ? 'it is not signed' : messageOf(error))
  }
}

async function check(dir: string, part: Part, file: ImageFile, digests: Digests): Promise<VerifiedFile> {
  const path = join(dir, file.name)
  try {
    // Before it is read: what is changed from here on is another file.
    const identity = fileIdentity(path)
    if ((await digests.sha256(path)) === file.sha256) return { sha256: file.sha256, identity }
  } catch (error) {
    throw refused(dir, `the ${part} cannot be read (${errnoOf(error) ?? messageOf(error)})`)
  }
  throw refused(dir, `the ${part} is not the one that was signed`)
}

const refused = (dir: string, why: string): AmbitError =>
  new AmbitError('ERR_RUNTIME_FAILED', `will not start the image ${printable(dir)}`, why, REMEDY)
