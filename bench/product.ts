/** The product as a user starts it, with all its state in the bench's own directory. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { makeDir } from '../src/lib/make-dir.ts'
import type { Bench } from './figure.ts'
import { familyOf } from './memory.ts'

const ROOT = join(import.meta.dirname, '..')

export interface Product {
  readonly env: NodeJS.ProcessEnv
  /** Argument list of `ambit run …`. */
  readonly run: (args: readonly string[]) => readonly string[]
}

/** An Ambit with its state in `home`. @throws Error when it was not built or cannot run a session here. */
export async function product(bench: Bench, home = join(bench.scratch, 'ambit-home')): Promise<Product> {
  if (!existsSync(join(ROOT, '.build/ambit.cjs'))) throw new Error('the product is not built: ./dev build')
  const env = { ...process.env, AMBIT_HOME: home }
  if (!existsSync(home)) {
    mkdirSync(home, { mode: 0o700 })
    bench.defer(() => stopDaemon(home))
  }
  const run = (args: readonly string[]): readonly string[] => [
    join(ROOT, 'ambit'),
    'run',
    '--yes',
    '--quiet',
    ...args,
  ]
  const project = join(bench.scratch, 'probe')
  makeDir(project, 0o777)
  const [program, ...args] = run(['--profile', 'writer', '--project', project, '--', 'true'])
  try {
    await promisify(execFile)(program ?? '', args, { env, cwd: project, timeout: 30_000 })
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string }
    throw new Error(stderr?.trim().split('\n').at(-1) || message, { cause: error })
  }
  return { env, run }
}

/** Ends the daemon that serves `home`: ours, told by its own environment. It writes until it is gone. */
async function stopDaemon(home: string): Promise<void> {
  for (const pid of readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)) {
    if (pid === process.pid) continue
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
      if (!environment.includes(`AMBIT_HOME=${home}`)) continue
      if (!commandLine(pid).includes('ambitd')) continue
      process.kill(pid, 'SIGTERM')
      for (let waited = 0; waited < 3000 && existsSync(`/proc/${pid}`); waited += 50)
        await new Promise((resolve) => setTimeout(resolve, 50))
    } catch {
      // Gone meanwhile, or another user's.
    }
  }
}

/** The process that holds the session of `project`: `ambitd`'s word, for a warm host is no child of the command. */
export async function sessionProcess(env: NodeJS.ProcessEnv, project: string): Promise<number> {
  const { stdout } = await promisify(execFile)(join(ROOT, 'ambit'), ['sessions', '--json'], { env })
  const sessions = JSON.parse(stdout) as readonly { project: string | null; pid: number }[]
  const session = sessions.find((one) => one.project === project)
  if (!session) throw new Error(`no session runs in ${project}`)
  return session.pid
}

/** Resident bytes of a process and all its descendants that `wanted` takes, by command line. */
export function residentBytes(pid: number, wanted: (cmdline: string) => boolean): number {
  let total = 0
  for (const one of familyOf([pid])) {
    try {
      if (!wanted(commandLine(one))) continue
      const kilobytes = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${one}/status`, 'utf8'))?.[1]
      total += Number(kilobytes ?? 0) * 1024
    } catch {
      // Gone meanwhile.
    }
  }
  if (total === 0) throw new Error('its process was not found')
  return total
}

/** The last descendant of `pid` whose command line is `wanted`. */
export const descendant = (pid: number, wanted: string): number | undefined =>
  familyOf([pid]).findLast((one) => commandLine(one) === wanted)

/** Its arguments with spaces between them; empty when it is gone. */
export function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
  } catch {
    return ''
  }
}
