/**
 * Warm snapshots: a machine that has booted and holds nothing of a session, one for each image and shape. They lie in
 * this account's state directory, are signed by its key, and are verified before each use.
 */
import { createHash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { z } from 'zod'
import { makeDir } from '../../lib/make-dir.ts'
import { ACCELERATORS } from '../accelerator.ts'
import { AmbitError, messageOf } from '../../lib/errors.ts'
import { keysDir, type Paths } from '../../lib/paths.ts'
import { printable } from '../../lib/printable.ts'
import type { VerifiedFile } from '../launch-spec.ts'
import { type Digests, fileIdentity } from './digests.ts'
import {
  type ImagePublicKey,
  loadImageKey,
  loadOrMakeImageKey,
  reasonToDistrust,
  signContent,
} from './minisign.ts'

const digest = z.string().regex(/^[0-9a-f]{64}$/)
const shape = z.strictObject({
  /** Of the image's signed manifest. */
  image: digest,
  /** QEMU's and the launcher's own bytes: another one has other devices, or another form of them. */
  qemu: digest,
  launcher: digest,
  /** Registers of one are not another's, and what guards against speculation rests under TCG only. */
  accelerator: z.enum(ACCELERATORS),
  memory: z.number().int().positive(),
  processors: z.number().int().positive(),
  /** The guest counts time by this processor's counter. */
  processor: z.string(),
})
const description = z.strictObject({
  v: z.literal(1),
  shape,
  size: z.number().int().positive(),
  sha256: digest,
})

/** All that a machine must have in common with the one that was written down. */
export type Shape = z.infer<typeof shape>

export interface FoundSnapshot {
  readonly path: string
  readonly verified: VerifiedFile
}

const MACHINE = 'machine'
const DESCRIPTION = 'snapshot.json'
/** The end of its signature's name. */
const SIGNED = '.minisig'
const REMEDY = 'make it anew: ambit image warm'
const MAX_DESCRIPTION = 64 << 10
/** Part of the name of one that is being made. */
const ASIDE = '.new-'
/** After this, whoever was making it is gone. */
const UNFINISHED_MS = 3_600_000

const snapshotsDir = (paths: Paths): string => join(paths.state, 'snapshots')

/** True when there may be one for some shape: nothing need be read to know that there is none. */
export const hasSnapshots = (paths: Paths): boolean => existsSync(snapshotsDir(paths))

function placeOf(paths: Paths, wanted: Shape): string {
  const name = createHash('sha256').update(canonical(wanted)).digest('hex').slice(0, 32)
  return join(snapshotsDir(paths), name)
}

const canonical = (wanted: Shape): string => JSON.stringify(wanted, Object.keys(wanted).toSorted())

/** The snapshot of this shape, verified; null when there is none. Throws ERR_RUNTIME_FAILED for one that was altered. */
export async function findSnapshot(
  paths: Paths,
  wanted: Shape,
  digests: Digests,
): Promise<FoundSnapshot | null> {
  const dir = placeOf(paths, wanted)
  if (!existsSync(dir)) return null
  const told = described(dir, paths)
  if (canonical(told.shape) !== canonical(wanted)) throw refused(dir, 'it is of a machine of another shape')
  const path = join(dir, MACHINE)
  try {
    const { uid, mode } = statSync(path)
    if (uid !== process.getuid?.() || mode & 0o077) throw refused(dir, 'it is not this account’s alone')
    const identity = fileIdentity(path)
    if ((await digests.sha256(path)) === told.sha256)
      return { path, verified: { sha256: told.sha256, identity } }
  } catch (error) {
    if (error instanceof AmbitError) throw error
    throw refused(dir, messageOf(error))
  }
  throw refused(dir, 'it is not the one that was signed')
}

/** SHA-256 of the snapshots of `image` whose descriptions `key` signed; what else lies there does not count. */
export function signedSnapshots(paths: Paths, image: string, key: ImagePublicKey): string[] {
  if (!hasSnapshots(paths)) return []
  return readdirSync(snapshotsDir(paths)).flatMap((name) =>
    signedSnapshot(join(snapshotsDir(paths), name, DESCRIPTION), image, key),
  )
}

/** The same for the one that `file` describes; its signature lies beside it. */
export function signedSnapshot(file: string, image: string, key: ImagePublicKey): string[] {
  try {
    const { shape, sha256 } = signedBy(file, key)
    return shape.image === image ? [sha256] : []
  } catch {
    return [] // nobody vouches for it
  }
}

function described(dir: string, paths: Paths): z.infer<typeof description> {
  const key = loadImageKey(keysDir(paths))
  if (!key) throw refused(dir, 'this account has no image key, so nothing here was signed by it')
  return signedBy(join(dir, DESCRIPTION), key)
}

/** What `file` says of a snapshot, its signature beside it. */
function signedBy(file: string, key: ImagePublicKey): z.infer<typeof description> {
  const dir = dirname(file)
  const read = (path: string): Buffer => {
    try {
      if (statSync(path).size > MAX_DESCRIPTION) throw new Error(`${basename(path)} is too long`)
      return readFileSync(path)
    } catch (error) {
      throw refused(dir, messageOf(error))
    }
  }
  const bytes = read(file)
  const why = reasonToDistrust(bytes, read(`${file}${SIGNED}`).toString('latin1'), key)
  if (why !== null) throw refused(dir, `${basename(file)}: ${why}`)
  try {
    return description.parse(JSON.parse(bytes.toString()))
  } catch {
    throw refused(dir, `${basename(file)}: it is of another version`)
  }
}

/**
 * Has `write` write a machine of this shape to a file, signs it and puts it in its place. Snapshots of other images,
 * and of other versions of QEMU and Ambit, go: nothing would start from them.
 */
export async function keepSnapshot(
  paths: Paths,
  wanted: Shape,
  write: (path: string) => Promise<void>,
): Promise<{ dir: string; size: number }> {
  const dir = placeOf(paths, wanted)
  makeDir(snapshotsDir(paths))
  // Of its own: two that are made at once must not end up as one.
  const aside = mkdtempSync(`${dir}${ASIDE}`)
  try {
    await write(join(aside, MACHINE))
    const { size } = statSync(join(aside, MACHINE))
    const sha256 = createHash('sha256')
      .update(readFileSync(join(aside, MACHINE)))
      .digest('hex')
    const bytes = Buffer.from(`${JSON.stringify({ v: 1, shape: wanted, size, sha256 }, null, 1)}\n`)
    const signature = signContent(bytes, loadOrMakeImageKey(keysDir(paths)), 'ambit microVM snapshot')
    put(join(aside, DESCRIPTION), bytes)
    put(join(aside, `${DESCRIPTION}${SIGNED}`), signature)
    rmSync(dir, { recursive: true, force: true })
    renameSync(aside, dir)
    dropOthers(paths, wanted)
    return { dir, size }
  } finally {
    rmSync(aside, { recursive: true, force: true })
  }
}

function put(path: string, content: string | Buffer): void {
  writeFileSync(path, content, { mode: 0o600 })
  const fd = openSync(path, 'r')
  fsyncSync(fd)
  closeSync(fd)
}

function dropOthers(paths: Paths, kept: Shape): void {
  const all = snapshotsDir(paths)
  for (const name of readdirSync(all)) {
    const dir = join(all, name)
    if (name.includes(ASIDE) && Date.now() - statSync(dir).mtimeMs < UNFINISHED_MS) continue
    try {
      const { image, qemu, launcher } = described(dir, paths).shape
      if (image === kept.image && qemu === kept.qemu && launcher === kept.launcher) continue
    } catch {
      // It would refuse every session of its shape.
    }
    rmSync(dir, { recursive: true, force: true })
  }
}

const refused = (dir: string, why: string): AmbitError =>
  new AmbitError('ERR_RUNTIME_FAILED', `will not start from the snapshot ${printable(dir)}`, why, REMEDY)
