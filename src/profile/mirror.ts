/**
 * The mirror directory: copies of named files, so that a session which talks to the cloud sees these and nothing
 * around them. Changes wait under review in the mirror; taking one back to its origin is the user's own step.
 */
import { createHash } from 'node:crypto'
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import type { FullSpec } from './defaults.ts'
import type { Plan } from './plan.ts'
import { realOf, refuseTerritory, type Territory, within } from './territory.ts'
import { expandPath, type VariableName } from './variables.ts'
import type { Path } from './yaml.ts'
import { invalid } from './invalid.ts'

const MAX_FILE = 256 * 1024 * 1024

/** @throws AmbitError ERR_PROFILE_INVALID, ERR_PATH_FORBIDDEN */
export function compileMirror(
  spec: FullSpec,
  place: (path: Path) => string,
  values: Readonly<Record<VariableName, string>>,
  territories: readonly Territory[],
): Plan['mirror'] {
  const taken = new Set<string>()
  return spec.mirror.map((entry, index) => {
    const at = (key: 'from' | 'to'): string => place(['spec', 'mirror', index, key])
    const from = expandPath(entry.from, values)
    if (typeof from === 'string') throw invalid(at('from'), from)
    const name = entry.to ?? basename(from.path)
    const to = expandPath(`\${mirror}/${name}`, values)
    if (typeof to === 'string') throw invalid(at('to'), to)
    if (name.startsWith('/') || to.bare) throw invalid(at('to'), 'is no name below the mirror directory')
    if (within(from.path, values.mirror)) throw invalid(at('from'), 'lies in the mirror itself')
    refuseTerritory(from.path, at('from'), territories)
    if (taken.has(to.path.toLowerCase())) throw invalid(at('to'), 'names a file that an earlier entry fills')
    taken.add(to.path.toLowerCase())
    return { from: from.path, to: to.path }
  })
}

export interface Mirrored {
  readonly from: string
  readonly to: string
  /** `kept`: the copy differs from its origin, by an applied change or a newer origin; nothing is overwritten. */
  readonly state: 'copied' | 'same' | 'kept'
}

/**
 * Copies what is not there yet. Never follows a link at the last step and never overwrites.
 *
 * @throws AmbitError ERR_PATH_FORBIDDEN for what is no regular readable file.
 */
export function fillMirror(mirror: Plan['mirror']): Mirrored[] {
  return mirror.map(({ from, to }) => {
    const content = readRegular(from)
    const present = readPresent(to)
    if (present !== null) return { from, to, state: sha256(present) === sha256(content) ? 'same' : 'kept' }
    makeDir(dirname(to))
    if (realOf(dirname(to)) !== dirname(to)) throw refused(to, 'its directory goes through a symbolic link')
    writeNew(to, content)
    return { from, to, state: 'copied' }
  })
}

function readRegular(path: string): Buffer {
  if (realOf(dirname(path)) !== dirname(path)) throw refused(path, 'it goes through a symbolic link')
  let fd: number | undefined
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw refused(path, 'it is not a regular file')
    if (stat.size > MAX_FILE) throw refused(path, `it is larger than ${MAX_FILE} bytes`)
    return readFileSync(fd)
  } catch (error) {
    if (error instanceof AmbitError) throw error
    throw refused(path, printable(messageOf(error)))
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}

function readPresent(path: string): Buffer | null {
  try {
    return readRegular(path)
  } catch (error) {
    const cause = error instanceof AmbitError && error.why.startsWith('ENOENT')
    if (cause) return null
    throw error
  }
}

/** Written beside and renamed, so that a half-written copy is never taken for the file. */
function writeNew(path: string, content: Buffer): void {
  const part = join(dirname(path), `.${basename(path)}.ambit-part`)
  try {
    writeFileSync(part, content, { mode: 0o600, flag: 'wx' })
    renameSync(part, path)
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') rmSync(part, { force: true })
    throw refused(path, printable(messageOf(error)))
  }
}

const sha256 = (content: Buffer): string => createHash('sha256').update(content).digest('hex')
const refused = (path: string, why: string): AmbitError =>
  new AmbitError('ERR_PATH_FORBIDDEN', `mirror ${printable(path)}`, why)
