/** Run directories of sessions: private, short-lived, removed by `ambit run` at its end, or here when it could not. */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { errnoOf } from '../lib/errors.ts'
import { removeMemoryDir } from '../lib/memory-dir.ts'
import type { Paths } from '../lib/paths.ts'
import { processes } from './orphans.ts'
import { birthOf, loadRecord } from './records.ts'

/** Removes those of dead sessions; one line each. */
export function removeRunDirs(paths: Paths): string[] {
  const dir = join(paths.run, 'sessions')
  return list(dir).flatMap((id) => {
    const record = loadRecord(paths, id)
    // Without a record the session may be about to call the daemon: its directory must be older than that takes.
    const dead = record
      ? birthOf(record.pid) !== record.born
      : ageOf(join(dir, id)) > 60_000 && !inUse(join(dir, id))
    if (!dead) return []
    removeMemoryDir(id)
    fs.rmSync(join(dir, id), { recursive: true, force: true })
    return [`removed the run directory of session ${id}`]
  })
}

const inUse = (dir: string): boolean =>
  processes().some(({ argv }) => argv.some((argument) => argument.startsWith(`${dir}/`)))

const ageOf = (path: string): number =>
  Date.now() - (fs.lstatSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Date.now())

function list(dir: string): string[] {
  try {
    return fs.readdirSync(dir)
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    throw error
  }
}
