/**
 * The `runsc` of this machine, and what it knows that others do not: found out by trying, since a build of one's own has
 * no version's name, and kept until the program changes.
 */
import { existsSync, realpathSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { AmbitError } from '../lib/errors.ts'
import type { Paths } from '../lib/paths.ts'
import { tryRun } from './doctor/probe.ts'
import { remembered } from './remembered.ts'
import { installHint, lookForTool } from './tools.ts'

/** gVisor as a session starts it. */
export interface Gvisor {
  /** Links resolved: its helpers are looked for beside it. */
  readonly runsc: string
  /** Directory of the programs that versions from 2026 on start beside themselves. */
  readonly helpers: string | null
  /** It could let the Sentry open the host's files by itself (versions from 2023 on), and is told not to. */
  readonly directfs: boolean
}

/** What an administrator put there is newer than the distribution's (Debian's is of 2022). */
const LOCAL = ['/usr/local/bin/runsc', '/usr/local/sbin/runsc']

/** Absolute path of `runsc`, or null. Never by the caller's PATH (src/runtime/tools.ts). */
export const lookForRunsc = (): string | null =>
  LOCAL.find((path) => existsSync(path)) ?? lookForTool('runsc')

/** @throws AmbitError ERR_RUNTIME_MISSING where there is none, ERR_RUNTIME_FAILED where it does not run. */
export async function inspectGvisor(paths: Paths): Promise<Gvisor> {
  const found = lookForRunsc()
  if (!found)
    throw new AmbitError('ERR_RUNTIME_MISSING', RUNTIME, 'runsc is not installed', installHint('runsc'))
  const path = realpathSync(found)
  const helpers = join(dirname(path), 'gvisor-bin')
  const key = keyOf(path)
  const directfs = answer.recall(paths, key) ?? answer.keep(paths, key, await knowsDirectfs(path))
  return { runsc: path, helpers: existsSync(helpers) ? helpers : null, directfs }
}

const RUNTIME = 'runtime container'

/** Whether it knows the flag. */
const answer = remembered('gvisor', z.boolean())

/** For an answer of milliseconds, on a machine that has none to spare: no session starts without it. */
const PATIENCE_MS = 30_000

/**
 * Only a version that says that it knows no such flag has none: one that fails for another reason might have it, and
 * would let the Sentry open the host's files.
 */
export async function knowsDirectfs(path: string): Promise<boolean> {
  const told = await tryRun(path, ['--directfs=false', '--version'], PATIENCE_MS)
  if (told.ok) return true
  if (UNKNOWN.test(told.errors)) return false
  throw new AmbitError(
    'ERR_RUNTIME_FAILED',
    RUNTIME,
    `${path} does not run: ${told.why}`,
    'run: ambit doctor',
  )
}

/** What Go's `flag` says. */
const UNKNOWN = /^flag provided but not defined: -directfs$/m

function keyOf(path: string): string {
  const { ino, size, mtimeMs, ctimeMs } = statSync(path)
  return [path, ino, size, mtimeMs, ctimeMs].join(' ')
}
