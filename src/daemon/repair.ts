/**
 * Clears what a crash or a power cut left. It touches only what a dead session of these paths owns: processes by the
 * spec that they were started with, run directories, sockets, mounts. Never a live session, a journal, a log or a key.
 */
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { HOST_PATH } from '../lib/host-path.ts'
import { type Paths, daemonSocket, logDir } from '../lib/paths.ts'
import { connectDaemon } from './client.ts'
import { killOrphans } from './orphans.ts'
import { birthOf, isLive, listSessions, loadRecord } from './records.ts'
import { removeRunDirs } from './run-dirs.ts'
import { claimDaemon } from './serve.ts'

/** Clears leftovers; one line each, of what was done. */
export async function repair(paths: Paths): Promise<string[]> {
  const dead = unfinished(paths)
  return [
    ...killOrphans(paths),
    ...detachMounts(fs.readFileSync('/proc/self/mountinfo', 'utf8')),
    ...removeRunDirs(paths),
    ...removeSocket(paths),
    ...(await finishSessions(paths, dead)),
  ]
}

/** FUSE mounts of ours in this mount namespace; sessions' own live in private namespaces, so these are leftovers. */
export function leftoverMounts(mountinfo: string): string[] {
  return mountinfo.split('\n').flatMap((line) => {
    const [mount = '', rest = ''] = line.split(' - ')
    const [type = '', source = '', options = ''] = rest.split(' ')
    const ours =
      source === 'ambit' &&
      type.startsWith('fuse') &&
      options.split(',').includes(`user_id=${process.getuid?.()}`)
    const path = mount.split(' ')[4]
    return ours && path
      ? [path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))]
      : []
  })
}

function detachMounts(mountinfo: string): string[] {
  return leftoverMounts(mountinfo).map((path) => {
    try {
      execFileSync('fusermount3', ['-u', '-z', '--', path], {
        env: { PATH: HOST_PATH },
        stdio: ['ignore', 'ignore', 'pipe'],
        timeout: 10_000,
      })
      return `unmounted ${path}`
    } catch (error) {
      return `could not unmount ${path}: ${messageOf(error)}`
    }
  })
}

/** A socket whose daemon is gone: nobody holds the lock. */
function removeSocket(paths: Paths): string[] {
  const socket = daemonSocket(paths)
  if (!fs.existsSync(socket)) return []
  const lock = claimDaemon(paths)
  if (lock === null) return []
  try {
    fs.rmSync(socket)
    return [`removed the stale socket ${socket}`]
  } finally {
    fs.closeSync(lock)
  }
}

const unfinished = (paths: Paths): string[] =>
  listSessions(paths).filter((id) => {
    const record = loadRecord(paths, id)
    return record !== null && isLive(record.state) && birthOf(record.pid) !== record.born
  })

/** The daemon ends dead sessions when it starts, and each second; its answer to log.sync comes after that. */
async function finishSessions(paths: Paths, ids: readonly string[]): Promise<string[]> {
  if (ids.length === 0) return []
  try {
    const daemon = await connectDaemon(paths)
    try {
      await waitUntilEnded(paths, ids)
    } finally {
      daemon.close()
    }
  } catch (error) {
    if (!(error instanceof AmbitError)) throw error
    return [`could not finish the record in ${logDir(paths)}: ${error.message}`]
  }
  return ids.map((id) => {
    const state = loadRecord(paths, id)?.state
    return state && !isLive(state)
      ? `recorded the end of session ${id}: ${state}`
      : `session ${id} is not ended yet; see ambit sessions`
  })
}

async function waitUntilEnded(paths: Paths, ids: readonly string[]): Promise<void> {
  const deadline = performance.now() + 5000
  while (performance.now() < deadline && ids.some((id) => unfinished(paths).includes(id))) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
