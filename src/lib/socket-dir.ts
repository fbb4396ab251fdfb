/** The directory of the daemon's socket: private to one account, so that nobody else can put a socket there. */
import * as fs from 'node:fs'
import { AmbitError, messageOf } from './errors.ts'
import { makeDir } from './make-dir.ts'

/** Makes `dir` (0700) if it is missing and checks that it is ours alone. Throws ERR_DAEMON_PEER (T-11). */
export function claimDir(dir: string): void {
  try {
    makeDir(dir)
  } catch (error) {
    throw refused(dir, messageOf(error))
  }
  checkDir(dir)
}

/** Checks without making. A symbolic link, a foreign owner or access for others is refused, never repaired. */
export function checkDir(dir: string): void {
  let stat: fs.Stats
  try {
    stat = fs.lstatSync(dir)
  } catch (error) {
    throw refused(dir, messageOf(error))
  }
  if (!stat.isDirectory()) throw refused(dir, 'it is not a directory')
  if (stat.uid !== process.getuid?.()) throw refused(dir, 'it belongs to another account')
  if (stat.mode & 0o077) throw refused(dir, 'other accounts may enter it')
}

/**
 * Runs `use` with an address of `name` in `dir`. A socket address holds 107 bytes: longer paths go through a
 * descriptor of the directory, which stays open until `use` settles.
 */
export async function withAddress<T>(
  dir: string,
  name: string,
  use: (address: string) => Promise<T>,
): Promise<T> {
  const path = `${dir}/${name}`
  if (Buffer.byteLength(path) < 108) return await use(path)
  const fd = fs.openSync(dir, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY | fs.constants.O_NOFOLLOW)
  try {
    return await use(`/proc/self/fd/${fd}/${name}`)
  } finally {
    fs.closeSync(fd)
  }
}

function refused(dir: string, why: string): AmbitError {
  return new AmbitError(
    'ERR_DAEMON_PEER',
    `will not use ${dir} for the daemon's socket`,
    why,
    'make it a directory of yours with mode 0700, or set AMBIT_HOME to a place where one can be',
  )
}
