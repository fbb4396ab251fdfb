import { execFile } from 'node:child_process'
import { access, open, readFile } from 'node:fs/promises'
import { errnoOf, messageOf } from '../../lib/errors.ts'

/** One primitive: whether it works here, how that was found out, and what would make it work. */
export interface Probe {
  readonly name: string
  readonly state: 'fully' | 'partly' | 'not'
  readonly detail: string
  readonly remedy: string | null
  /** Without it no session starts. */
  readonly needed: boolean
}

export const works = (name: string, detail: string, needed = true): Probe => ({
  name,
  state: 'fully',
  detail,
  remedy: null,
  needed,
})
export const lacks = (name: string, detail: string, remedy: string, needed = true): Probe => ({
  name,
  state: 'not',
  detail,
  remedy,
  needed,
})

export const BUILD = 'run: ./dev build'

/** What a program said when it was tried. */
export interface Run {
  readonly ok: boolean
  /** Exit status; null when a signal or the deadline ended it. */
  readonly status: number | null
  readonly out: string
  readonly errors: string
  readonly why: string
}

/** Runs a host program for at most so many milliseconds. */
export function tryRun(path: string, args: readonly string[], timeout = 5000): Promise<Run> {
  return new Promise((resolve) => {
    // Not SIGTERM: runsc passes it on to a guest that may not be there.
    const options = {
      timeout,
      killSignal: 'SIGKILL' as const,
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    }
    execFile(path, [...args], options, (error, stdout, stderr) => {
      const said = stderr.trim().split('\n').at(-1) ?? ''
      const status = error === null ? 0 : typeof error.code === 'number' ? error.code : null
      resolve({
        ok: error === null,
        status,
        out: stdout.trim(),
        errors: stderr,
        why: said || (error ? messageOf(error) : ''),
      })
    })
  })
}

/** The errno name of the refusal, or null. */
export async function tryOpen(path: string): Promise<string | null> {
  try {
    await (await open(path, 'r+')).close()
    return null
  } catch (error) {
    return errnoOf(error) ?? messageOf(error)
  }
}

export const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  )
export const read = (path: string): Promise<string | null> => readFile(path, 'utf8').catch(() => null)

/** A JSON object, or null. */
export function parse(text: string): Record<string, unknown> | null {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch {
    return null // an older launcher has no probe
  }
}
