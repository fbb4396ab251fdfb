/**
 * Where `--summary` goes. The place may lie in the project, so the agent may put a link, a pipe or another directory
 * there while it runs. So the directory is held from before the session begins, and the file replaces whatever has
 * its name instead of being written through it.
 */
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname } from 'node:path'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'

export interface SummaryFile {
  /** @throws AmbitError ERR_PATH_FORBIDDEN when the place is not the one that was named any more. */
  write(text: string): void
}

/** @throws AmbitError ERR_INPUT_INVALID when there is no such directory. */
export function openSummaryFile(path: string): SummaryFile {
  // /dev/stdout, /dev/fd/63: a stream of the caller's, and no place of an agent's.
  if (path.startsWith('/dev/')) return { write: (text) => writeFileSync(path, text) }
  const dir = openDirectory(path)
  return {
    write: (text) => {
      try {
        replaceIn(dir, path, text)
      } catch (error) {
        throw failed(path, 'ERR_PATH_FORBIDDEN', error)
      } finally {
        closeSync(dir)
      }
    },
  }
}

function openDirectory(path: string): number {
  try {
    return openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
  } catch (error) {
    throw failed(path, 'ERR_INPUT_INVALID', error)
  }
}

function replaceIn(dir: number, path: string, text: string): void {
  // Node has no openat(2): the descriptor's own link is the directory, wherever its name leads by now.
  const held = `/proc/self/fd/${dir}`
  const part = `${held}/.${randomBytes(8).toString('hex')}.ambit-part`
  const fd = openSync(part, 'wx', 0o666)
  try {
    writeFileSync(fd, text)
    renameSync(part, `${held}/${basename(path)}`)
    // The agent may have moved the directory and left another one, with a summary of its own making.
    const [ours, named] = [fstatSync(fd), statSync(path)]
    if (ours.ino !== named.ino || ours.dev !== named.dev)
      throw new Error('its directory was replaced during the session')
  } catch (error) {
    rmSync(part, { force: true })
    throw error
  } finally {
    closeSync(fd)
  }
}

const failed = (path: string, code: 'ERR_PATH_FORBIDDEN' | 'ERR_INPUT_INVALID', error: unknown): AmbitError =>
  new AmbitError(
    code,
    `could not write the summary ${printable(path)}`,
    printable(messageOf(error)),
    'name a file in a directory that is there, and that the session cannot change',
    {
      cause: error,
    },
  )
