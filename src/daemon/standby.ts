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
/**
 * A gate's memory: young objects get 8 MiB instead of 16 a half, from the start, so that none are collected while a
 * session starts; malloc has two arenas instead of eight a core. Code that was rehearsed stays compiled, however long
 * the host waits. The environment is the host's own; the session it serves brings another. No debugger by signal:
 * native/start/src/main.rs.
 */
const SPARING = {
  flags: ['--max-semi-space-size=8', '--min-semi-space-size=8', '--no-flush-bytecode', '--disable-sigusr1'],
  env: { MALLOC_ARENA_MAX: '2' },
} as const
/** Hosts in a row that may end before anybody took them: killed, or of an installation that was just replaced. */
const MOST_LOST = 3

export interface Standby {
  /** No further host; the one that waits ends with its pipe, one that serves goes on. */
  stop(): void
}

/** Starts the first host when things are quiet, then one for each that was taken or has served. From the bundle only. */
export function keepStandby(paths: Paths): Standby {
  if (dirname(fileURLToPath(import.meta.url)).endsWith('/src/daemon')) return { stop: () => undefined }
  let waiting: ChildProcess | null = null
  let lost = 0
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
      lost = 0
      refill(REFILL_MS)
    })
    host.once('exit', () => {
      if (taken) return refill(0)
      // Whatever ends hosts again and again cannot serve here: sessions start cold.
      waiting = null
      if (++lost < MOST_LOST) refill(lost * 5 * REFILL_MS)
    })
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
  const host = spawn(
    join(build, 'node'),
    [...SPARING.flags, join(build, 'ambit.cjs'), 'session-host', ...places],
    {
      cwd: '/',
      env: { ...bareEnvironment(), ...SPARING.env },
      stdio: ['pipe', 'pipe', 'inherit'],
      detached: true,
    },
  )
  host.unref()
  for (const pipe of [host.stdin, host.stdout]) {
    ;(pipe as unknown as { unref(): void } | null)?.unref()
    pipe?.on('error', () => undefined)
  }
  return host
}
