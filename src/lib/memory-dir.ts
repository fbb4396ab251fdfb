/**
 * A directory of one session in the machine's shared memory. Everybody may make names there: one that is not ours is
 * neither used nor removed, for whoever made it decides where it leads while we look.
 */
import { lstatSync, mkdirSync, rmSync, statfsSync } from 'node:fs'
import { dirname } from 'node:path'
import { memoryDir } from './paths.ts'

const TMPFS = 0x01021994
const STICKY = 0o1000
/** More than a session's /etc takes. */
const ROOM = { bytes: 16 << 20, files: 1000 }

/** Null where the session must do with a disk: no shared memory, too little left of it, or one where anybody may rename. */
export function makeMemoryDir(id: string): string | null {
  const dir = memoryDir(id)
  if (!isUsable(dirname(dir))) return null
  // Fails where somebody has taken the name: every name in a shared directory is a guess.
  mkdirSync(dir, { mode: 0o700 })
  return dir
}

/** Removes it, if there is one and it is ours. */
export function removeMemoryDir(id: string): void {
  const dir = memoryDir(id)
  const stat = lstatSync(dir, { throwIfNoEntry: false })
  if (stat?.isDirectory() && stat.uid === process.getuid?.()) rmSync(dir, { recursive: true, force: true })
}

/** tmpfs itself, not a link to some. */
export const isMemory = (path: string): boolean =>
  lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true && statfsSync(path).type === TMPFS

function isUsable(shared: string): boolean {
  if (!isMemory(shared)) return false
  const { mode, uid } = lstatSync(shared)
  const { bavail, bsize, ffree, files } = statfsSync(shared)
  const roomy = bavail * bsize >= ROOM.bytes && (files === 0 || ffree >= ROOM.files)
  return roomy && (mode & STICKY) !== 0 && (uid === 0 || uid === process.getuid?.())
}
