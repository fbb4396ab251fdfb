/** The process `ambit-launch world SPEC`, whoever is its parent. */
import { spawn } from 'node:child_process'
import { closeSync, existsSync } from 'node:fs'
import type { Socket } from 'node:net'
import { AmbitError } from '../lib/errors.ts'
import { native } from '../lib/native.ts'

/** How a launcher ended; `error` when it did not start. */
export type LauncherEnd =
  | { readonly code: number | null; readonly signal: string | null }
  | { readonly error: string }

export interface Launcher {
  /** The other end of its fd 3. */
  readonly control: Socket
  /** The other end of its fd 4; whoever takes it closes it. */
  readonly descriptors: number
  /** Settles once. Never rejects. */
  readonly ended: Promise<LauncherEnd>
  kill(): void
}

/** @throws AmbitError ERR_RUNTIME_MISSING */
export type StartLauncher = (program: string, specPath: string) => Launcher

/** As a child of this process: the user's descriptors 0 to 2 are ours. */
export const spawnLauncher: StartLauncher = (program, specPath) => {
  if (!existsSync(program)) throw notBuilt()
  const [ours, theirs] = native().socketpair()
  try {
    // The launcher clears the environment of the cell itself; it needs none of the caller's.
    const child = spawn(program, ['world', specPath], {
      stdio: ['inherit', 'inherit', 'inherit', 'pipe', theirs],
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    })
    const ended = new Promise<LauncherEnd>((resolve) => {
      child.once('error', (error) => resolve({ error: error.message }))
      child.once('exit', (code, signal) => resolve({ code, signal }))
    })
    return {
      control: child.stdio[3] as Socket,
      descriptors: ours,
      ended,
      kill: () => void child.kill('SIGKILL'),
    }
  } catch (error) {
    closeSync(ours)
    throw error
  } finally {
    closeSync(theirs)
  }
}

const notBuilt = (): AmbitError =>
  new AmbitError('ERR_RUNTIME_MISSING', 'runtime os-sandbox', 'ambit-launch is not built', 'run: ./dev build')
