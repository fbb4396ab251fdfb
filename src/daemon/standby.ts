/**
 * Keeps one session host ready: a process of this account that has loaded a session's code and waits for one
 * `ambit run`. It never serves a second one (docs/decisions/0005-a-warm-start.md).
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Paths, installRoot } from '../lib/paths.ts'
import { bareEnvironment } from './client.ts'

/** Loading takes a tenth of a second of a core: not while a session starts. */
const REFILL_MS = 1000

export interface Standby {
  /** No further host; the one that waits ends with its pipe, one that serves goes on. */
  stop(): void
}

/** Starts the first host when things are quiet, then one for each that was taken or has served. From the bundle only. */
export function keepStandby(paths: Paths): Standby {
  if (dirname(fileURLToPath(import.meta.url)).endsWith('/src/daemon')) return { stop: () => undefined }
  let waiting: ChildProcess | null = null
  let timer: NodeJS.Timeout | undefined
  const refill = (ms: number): void => {
    clearTimeout(timer)
    timer = setTimeout(start, ms).unref()
  }
  function start(): void {
    if (waiting) return
    const host = startHost(paths)
    waiting = host
    let taken = false
    host.stdout?.once('data', () => {
      taken = true
      waiting = null
      refill(REFILL_MS)
    })
    // One that ends before it was taken cannot serve here: not tried again, sessions start cold.
    host.once('exit', () => taken && refill(0))
    host.on('error', () => undefined)
  }
  refill(REFILL_MS)
  return {
    stop: () => clearTimeout(timer),
  }
}

function startHost(paths: Paths): ChildProcess {
  const build = join(installRoot(), '.build')
  const places = ['--config', paths.config, '--state', paths.state, '--run', paths.run]
  const host = spawn(join(build, 'node'), [join(build, 'ambit.cjs'), 'session-host', ...places], {
    cwd: '/',
    env: bareEnvironment(),
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  })
  host.unref()
  for (const pipe of [host.stdin, host.stdout]) {
    ;(pipe as unknown as { unref(): void } | null)?.unref()
    pipe?.on('error', () => undefined)
  }
  return host
}
