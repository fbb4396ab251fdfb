import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Where Ambit keeps things. Everything is injectable, so that a system mode is a configuration. */
export interface Paths {
  /** User profiles and policy modules. */
  readonly config: string
  /** The log, keys, session directories and agent homes. Never inside a root of a session. */
  readonly state: string
  /** Sockets and files that die with the boot. Mode 0700. */
  readonly run: string
}

/** `AMBIT_HOME` holds all state when set; else the XDG base directories. */
export function resolvePaths(env: NodeJS.ProcessEnv = process.env, cwd = process.cwd()): Paths {
  if (env.AMBIT_HOME) {
    const home = resolve(cwd, env.AMBIT_HOME)
    return { config: join(home, 'config'), state: join(home, 'state'), run: join(home, 'run') }
  }
  const home = env.HOME || homedir()
  const state = join(env.XDG_STATE_HOME || join(home, '.local/state'), 'ambit')
  return {
    config: join(env.XDG_CONFIG_HOME || join(home, '.config'), 'ambit'),
    state,
    run: env.XDG_RUNTIME_DIR ? join(env.XDG_RUNTIME_DIR, 'ambit') : join(state, 'run'),
  }
}

export const daemonSocket = (paths: Paths): string => join(paths.run, 'ambitd.sock')
/** Where a warm session host waits for one caller. */
export const hostSocket = (paths: Paths): string => join(paths.run, 'session.sock')
export const logDir = (paths: Paths): string => join(paths.state, 'log')
export const keysDir = (paths: Paths): string => join(paths.state, 'keys')
export const sessionsDir = (paths: Paths): string => join(paths.state, 'sessions')
export const sessionDir = (paths: Paths, id: string): string => join(sessionsDir(paths), id)
/** The session's journals: `run.wal` (gate, monitor, life cycle), `view.wal`, `launch.wal`. */
export const journalDir = (paths: Paths, id: string): string => join(sessionDir(paths, id), 'journal')
/**
 * What of a session's run directory is many files and no record (its /etc) lies in memory: on a disk, every sync of a
 * journal would write it, too.
 */
export const memoryDir = (id: string): string => `/dev/shm/ambit-${process.getuid?.()}-${id}`
/** Images of microVMs, signed by the key in `keysDir`. */
export const imagesDir = (paths: Paths): string => join(paths.state, 'images')
export const agentHomesDir = (paths: Paths): string => join(paths.state, 'homes')

/**
 * The installed product: the directory that holds `profiles/`, `policies/` and `.build/`.
 * Found from this module's own place, never from the environment (C-48).
 */
export function installRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(dir, 'profiles')) && dirname(dir) !== dir) dir = dirname(dir)
  return dir
}

export const nativeBinary = (name: 'ambit-launch' | 'ambit-view'): string =>
  join(installRoot(), '.build', 'bin', name)
