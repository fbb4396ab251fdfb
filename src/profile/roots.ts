/** The `files` section: document → roots of the plan. */
import { lstatSync } from 'node:fs'
import { relative } from 'node:path'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { parseGlob } from '../lib/glob.ts'
import { printable } from '../lib/printable.ts'
import { DEFAULT_HIDE, DEFAULT_LABEL, DEFAULT_PROTECT, DEFAULT_REVIEW, type FullSpec } from './defaults.ts'
import { gitRedirects } from './git-redirects.ts'
import { hidesAll } from './left-out.ts'
import { LABELS, type Label, type RootPlan } from './plan.ts'
import type { FileEntry } from './schema.ts'
import { realOf, refuseTerritory, type Territory, within } from './territory.ts'
import { type Expanded, expandPath, type VariableName } from './variables.ts'
import type { Path } from './yaml.ts'
import { invalid } from './invalid.ts'

export interface RootContext {
  readonly place: (path: Path) => string
  readonly values: Readonly<Record<VariableName, string>>
  readonly territories: readonly Territory[]
  readonly searchPath: readonly string[]
  /** The profile's own file: protected where a root holds it. */
  readonly profileFile: string
}

/** @throws AmbitError ERR_PROFILE_INVALID, ERR_PATH_FORBIDDEN */
export function compileRoots(spec: FullSpec, context: RootContext): RootPlan[] {
  checkLists(spec, ['spec'], context)
  const places = spec.files.map((entry) => placeOf(entry, context.values))
  const shown = places.filter((_, index) => !hidesAll(spec.files[index]?.hide))
  const roots = spec.files.flatMap((entry, index) =>
    hidesAll(entry.hide) && !liesIn(places[index], shown) ? [] : [compileRoot(spec, entry, index, context)],
  )
  refuseEqual(roots, context)
  return roots.map((root) => ({ ...root, label: highestLabel(root, places) })).toSorted(longestFirst)
}

interface Place {
  /** Null where the path is malformed, which `compileRoot` reports. */
  readonly path: string | null
  readonly label: Label
}

function placeOf(entry: FileEntry, values: RootContext['values']): Place {
  const expanded = expandPath(entry.path, values)
  return { path: typeof expanded === 'string' ? null : expanded.path, label: entry.label ?? DEFAULT_LABEL }
}

/** Where all is hidden a root is needed only within another one; a malformed path counts as such. */
const liesIn = (place: Place | undefined, others: readonly Place[]): boolean => {
  const path = place?.path ?? null
  return path === null || others.some((other) => other.path !== null && within(path, other.path))
}

function compileRoot(spec: FullSpec, entry: FileEntry, index: number, context: RootContext): RootPlan {
  const place = context.place(['spec', 'files', index, 'path'])
  const expanded = expandPath(entry.path, context.values)
  if (typeof expanded === 'string') throw invalid(place, expanded)
  const { path } = expanded
  // Not the profile's doing: whoever started the session chose it, mostly by where they stood.
  const said = expanded.bare && expanded.variable === 'project' ? 'the project, here or by --project' : place
  refuseTooWide(path, said, context.values.home)
  const create = ownDirectory(expanded) && !exists(path)
  if (!create) requireDirectory(path, said)
  refuseLinked(path, said)
  refuseTerritory(path, said, context.territories)
  const workspace = expanded.variable === 'workspace'
  const lists = {
    hide: [...(workspace ? [] : DEFAULT_HIDE), ...spec.hide, ...(entry.hide ?? [])],
    // A clone, an install and a build must work in the workspace: it is untrusted as a whole instead.
    protect: [...(workspace ? [] : DEFAULT_PROTECT), ...spec.protect, ...(entry.protect ?? [])],
    review: [...(workspace ? [] : DEFAULT_REVIEW), ...spec.review, ...(entry.review ?? [])],
  }
  checkLists(entry, ['spec', 'files', index], context)
  if (entry.via === 'mount') checkMount(entry, context.place(['spec', 'files', index, 'via']))
  return {
    id: `files[${index}]`,
    path,
    access: entry.access,
    via: entry.via ?? 'view',
    label: entry.label ?? DEFAULT_LABEL,
    ...lists,
    // Last, so that nothing in the profile re-admits them.
    protect: [...lists.protect, ...(workspace ? [] : fixedProtects(path, context))],
    // Nobody works where all is hidden.
    variable: expanded.variable === 'home' || hidesAll(entry.hide) ? null : expanded.variable,
    create,
  }
}

/** Protected by what they are on this machine, not by their names. */
function fixedProtects(root: string, context: RootContext): string[] {
  const places = [...context.searchPath, context.profileFile, ...gitRedirects(root)]
  return [...new Set(places)]
    .filter((path) => path !== root && within(path, root))
    .map((path) => escapeGlob(relative(root, path)))
}

/** A pattern that matches exactly `path`. */
export const escapeGlob = (path: string): string => path.replace(/[\\*?[\]{}!]/g, '\\$&').replace(/^/, '/')

/** Trees where the kernel shows other processes, devices and settings: no file tree, and not the user's to give. */
const KERNEL_TREES = ['/proc', '/sys', '/dev']

function refuseTooWide(path: string, place: string, home: string): void {
  if (KERNEL_TREES.some((tree) => within(path, tree)))
    throw forbidden(`${place} (${printable(path)})`, 'is no file tree')
  if (path === '/') throw invalid(`${place} (/)`, 'is the whole file system')
  if (within(home, path))
    throw invalid(
      `${place} (${printable(path)})`,
      'holds your whole home directory: name a directory within it',
    )
}

/** `${workspace}` and `${mirror}` are Ambit's to make; everything else must be there already. */
const ownDirectory = (expanded: Expanded): boolean =>
  expanded.bare && (expanded.variable === 'workspace' || expanded.variable === 'mirror')

function exists(path: string): boolean {
  try {
    lstatSync(path)
    return true
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false
    throw forbidden(path, `cannot be looked at: ${printable(messageOf(error))}`)
  }
}

function requireDirectory(path: string, place: string): void {
  if (!exists(path))
    throw forbidden(`${place} (${printable(path)})`, 'does not exist', 'make it, or name another directory')
  const stat = lstatSync(path)
  if (!stat.isDirectory() && !stat.isSymbolicLink())
    throw forbidden(`${place} (${printable(path)})`, 'is not a directory', 'name the directory that holds it')
}

/** A link could be turned towards more than the sheet said; the user names what they mean (F-05). */
function refuseLinked(path: string, place: string): void {
  const real = realOf(path)
  if (real === path) return
  throw new AmbitError(
    'ERR_PATH_FORBIDDEN',
    `${place} (${printable(path)})`,
    'goes through a symbolic link',
    `if you mean ${printable(real)}, name that`,
  )
}

function refuseEqual(roots: readonly RootPlan[], context: RootContext): void {
  const seen = new Map<string, string>()
  for (const [index, root] of roots.entries()) {
    const first = seen.get(root.path)
    if (first) throw invalid(context.place(['spec', 'files', index]), `is the same directory as ${first}`)
    seen.set(root.path, root.id)
  }
}

/** A file's label is the highest of all that apply: a root within another one has at least that one's. */
function highestLabel(root: RootPlan, places: readonly Place[]): Label {
  const ranks = places
    .filter((other) => other.path !== null && within(root.path, other.path))
    .map((other) => LABELS.indexOf(other.label))
  return LABELS[Math.max(...ranks)] ?? root.label
}

const longestFirst = (a: RootPlan, b: RootPlan): number =>
  b.path.length - a.path.length || (a.path < b.path ? -1 : 1)

/** Every pattern that the profile wrote must parse: one that matches nothing would hide and protect nothing. */
function checkLists(
  lists: Partial<Record<'hide' | 'protect' | 'review', string[] | undefined>>,
  at: Path,
  context: RootContext,
): void {
  for (const key of ['hide', 'protect', 'review'] as const) {
    for (const [index, glob] of (lists[key] ?? []).entries()) {
      try {
        parseGlob(glob)
      } catch (error) {
        throw invalid(context.place([...at, key, index]), messageOf(error))
      }
    }
  }
}

/** A plain mount filters nothing, so it may only stand where nothing would be filtered. */
function checkMount(entry: FileEntry, place: string): void {
  if (entry.access !== 'read') throw invalid(place, 'mount is for access: read only')
}

const forbidden = (what: string, why: string, remedy?: string): AmbitError =>
  new AmbitError('ERR_PATH_FORBIDDEN', what, why, remedy)
