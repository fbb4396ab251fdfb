/** Processes that outlived the `ambit run` they belong to. They end by themselves at the end of its pipes; this is for when not. */
import * as fs from 'node:fs'
import { basename, join } from 'node:path'
import { type Paths, sessionsDir } from '../lib/paths.ts'
import { birthOf, loadRecord } from './records.ts'

/** `ambit-launch` and `ambit-view` processes of sessions whose `ambit run` is gone. */
export function orphanProcesses(
  paths: Paths,
): { pid: number; name: string; session: string; born: string }[] {
  // The launcher's spec lies in the run directory, the view's with the session.
  const prefixes = [`${join(paths.run, 'sessions')}/`, `${sessionsDir(paths)}/`]
  return processes().flatMap(({ pid, argv, parent }) => {
    const name = basename(argv[0] ?? '')
    const session = sessionIn(argv, prefixes)
    const born = birthOf(pid)
    if (!session || born === null || (name !== 'ambit-launch' && name !== 'ambit-view')) return []
    return runLives(paths, session, parent) ? [] : [{ pid, name, session, born }]
  })
}

/** The session whose spec is among the arguments. */
function sessionIn(argv: readonly string[], prefixes: readonly string[]): string | undefined {
  for (const prefix of prefixes) {
    const spec = argv.find((argument) => argument.startsWith(prefix))
    if (spec) return spec.slice(prefix.length).split('/')[0]
  }
  return undefined
}

/** A session that never reached the daemon has no record; then its processes' parent decides. */
function runLives(paths: Paths, session: string, parent: number | null): boolean {
  const record = loadRecord(paths, session)
  if (record) return birthOf(record.pid) === record.born
  return parent !== null && parent !== 1 && birthOf(parent) !== null
}

/** Kills them; one line each. */
export function killOrphans(paths: Paths): string[] {
  return orphanProcesses(paths).flatMap(({ pid, name, session, born }) => {
    // The number may be another process's since it was listed.
    if (birthOf(pid) !== born) return []
    process.kill(pid, 'SIGKILL')
    return [`killed ${name} ${pid} of session ${session}`]
  })
}

interface Process {
  readonly pid: number
  readonly argv: readonly string[]
  readonly parent: number | null
}

/** Processes of this account. Whatever ends or hides while it is looked at is not ours to clear. */
export function processes(): Process[] {
  const own = process.getuid?.()
  return fs.readdirSync('/proc').flatMap((name) => {
    if (!/^[0-9]+$/.test(name)) return []
    try {
      if (fs.statSync(`/proc/${name}`).uid !== own) return []
      const argv = fs.readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0')
      const parent = /^PPid:\s*([0-9]+)$/m.exec(fs.readFileSync(`/proc/${name}/status`, 'utf8'))?.[1]
      return [{ pid: Number(name), argv, parent: parent === undefined ? null : Number(parent) }]
    } catch {
      return []
    }
  })
}
