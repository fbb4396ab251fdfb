/**
 * `extends`: a child may remove entries, lower values or add denies; anything else is an error with its place. What
 * it leaves out it inherits. Values are compared as they take effect, defaults included.
 */
import { isDeepStrictEqual } from 'node:util'
import { matchesHost, parseHostPattern } from '../lib/host.ts'
import { parseDuration, parseSize } from '../lib/units.ts'
import { matchesPath } from '../lib/url-path.ts'
import {
  DEFAULT_CLEARANCE,
  DEFAULT_LABEL,
  DEFAULT_PORTS,
  type FullSpec,
  fill,
  withDefaults,
} from './defaults.ts'
import { invalid } from './invalid.ts'
import { leftOut } from './left-out.ts'
import type { ProfileDocument } from './load.ts'
import { LABELS, type Label, RUNTIMES } from './plan.ts'
import type { FileEntry, ProfileSpec, RuleEntry } from './schema.ts'
import type { Path } from './yaml.ts'

type Fail = (path: Path, why: string) => never

/** The document that `child` means. @throws AmbitError ERR_PROFILE_INVALID where it widens `base` */
export function narrow(base: ProfileDocument, child: ProfileDocument): ProfileDocument {
  const fail: Fail = (path, why) => {
    throw invalid(child.place(['spec', ...path]), `widens ${base.resolved.metadata.name}: ${why}`)
  }
  const spec = narrowSpec(withDefaults(base.resolved.spec), child.resolved.spec, fail)
  return { ...child, resolved: { ...child.resolved, spec }, place: placeIn(base, child) }
}

/** @internal exported for its property test */
export function narrowSpec(base: FullSpec, child: ProfileSpec, fail: Fail): FullSpec {
  const more = {
    hide: onlyDenies(child.hide, ['hide'], fail),
    protect: onlyDenies(child.protect, ['protect'], fail),
    review: onlyDenies(child.review, ['review'], fail),
  }
  return {
    isolation: narrowIsolation(base.isolation, child, fail),
    files: narrowFiles(base.files, child.files, fail).map((file) => withDenies(file, more)),
    mirror: subset(base.mirror, child.mirror, ['mirror'], fail),
    hide: [...base.hide, ...more.hide],
    protect: [...base.protect, ...more.protect],
    review: [...base.review, ...more.review],
    network:
      child.network?.map((rule, index) => narrowRule(base.network, rule, ['network', index], fail)) ??
      base.network,
    upload: narrowUpload(base.upload, child, fail),
    credentials: subset(base.credentials, child.credentials, ['credentials'], fail),
    environment: narrowEnvironment(base.environment, child, fail),
    desktop: narrowDesktop(base.desktop, child, fail),
    approvals: [...new Set([...base.approvals, ...(child.approvals ?? [])])],
  }
}

type Denies = Pick<FullSpec, 'hide' | 'protect' | 'review'>

/** `!` re-admits what an ancestor denied, so a child has none. */
function onlyDenies(globs: readonly string[] | undefined, path: Path, fail: Fail): string[] {
  for (const [index, glob] of (globs ?? []).entries()) {
    if (glob.startsWith('!')) fail([...path, index], `"${glob}" re-admits`)
  }
  return [...(globs ?? [])]
}

/** A root's own list is read after the profile's: the child's denies go last there too, or a base's `!` would undo them. */
const withDenies = (file: FileEntry, more: Denies): FileEntry => ({
  ...file,
  hide: [...(file.hide ?? []), ...more.hide],
  protect: [...(file.protect ?? []), ...more.protect],
  review: [...(file.review ?? []), ...more.review],
})

function subset<T>(base: T[], child: T[] | undefined, path: Path, fail: Fail): T[] {
  for (const [index, entry] of (child ?? []).entries()) {
    if (!base.some((known) => isDeepStrictEqual(known, entry))) fail([...path, index], 'it has no such entry')
  }
  return child ?? base
}

/** Fails unless `value` stands no later than `limit` in `order`. */
function notAbove<T>(order: readonly T[], value: T, limit: T, path: Path, fail: Fail): void {
  if (order.indexOf(value) > order.indexOf(limit))
    fail(path, `${String(value)} is more than ${String(limit)}`)
}

const STRONGEST_FIRST = RUNTIMES.toReversed()

function narrowIsolation(base: FullSpec['isolation'], child: ProfileSpec, fail: Fail): FullSpec['isolation'] {
  const own = fill(base, child.isolation)
  const at = (key: keyof typeof own): Path => ['isolation', key]
  notAbove(STRONGEST_FIRST, own.runtime, base.runtime, at('runtime'), fail)
  notAbove(['required', 'partly'], own.limits, base.limits, at('limits'), fail)
  for (const key of ['cpus', 'processes'] as const) {
    if (own[key] > base[key]) fail(at(key), `${own[key]} is more than ${base[key]}`)
  }
  for (const key of ['memory', 'disk'] as const) lower(parseSize, own[key], base[key], at(key), fail)
  lower(parseDuration, own.wallclock, base.wallclock, at('wallclock'), fail)
  return own
}

function lower(
  parse: (text: string) => number | null,
  own: string,
  base: string,
  path: Path,
  fail: Fail,
): void {
  if ((parse(own) ?? Infinity) > (parse(base) ?? 0)) fail(path, `${own} is more than ${base}`)
}

function narrowUpload(base: FullSpec['upload'], child: ProfileSpec, fail: Fail): FullSpec['upload'] {
  const own = fill(base, child.upload)
  for (const key of ['perRequest', 'perMinute', 'perSession'] as const)
    lower(parseSize, own[key], base[key], ['upload', key], fail)
  return own
}

function narrowDesktop(base: FullSpec['desktop'], child: ProfileSpec, fail: Fail): FullSpec['desktop'] {
  const own = fill(base, child.desktop)
  for (const key of ['clipboard', 'display', 'audio'] as const)
    notAbove(['deny', 'allow'], own[key], base[key], ['desktop', key], fail)
  return own
}

function narrowEnvironment(
  base: FullSpec['environment'],
  child: ProfileSpec,
  fail: Fail,
): FullSpec['environment'] {
  const pass = subset(base.pass, child.environment?.pass, ['environment', 'pass'], fail)
  const set = child.environment?.set ?? base.set
  for (const [name, value] of Object.entries(set)) {
    if (base.set[name] !== value) fail(['environment', 'set', name], 'it does not set that')
  }
  return { pass, set }
}

function narrowFiles(base: FileEntry[], child: FileEntry[] | undefined, fail: Fail): FileEntry[] {
  if (!child) return base
  const kept = child.map((own, index) => narrowFile(base, own, ['files', index], fail))
  const gone = base.filter((entry) => !child.some((own) => own.path === entry.path))
  return [...kept, ...gone.map(leftOut)]
}

function narrowFile(base: readonly FileEntry[], own: FileEntry, path: Path, fail: Fail): FileEntry {
  const parent =
    base.find((entry) => entry.path === own.path) ?? fail([...path, 'path'], 'it has no such root')
  notAbove(['read', 'review', 'write'], own.access, parent.access, [...path, 'access'], fail)
  notAbove(['view', 'mount'], own.via ?? 'view', parent.via ?? 'view', [...path, 'via'], fail)
  const label = own.label ?? parent.label ?? DEFAULT_LABEL
  // A label is a duty: the child may only raise it.
  notAbove(LABELS, parent.label ?? DEFAULT_LABEL, label, [...path, 'label'], fail)
  const denies = (key: 'hide' | 'protect' | 'review'): string[] => [
    ...(parent[key] ?? []),
    ...onlyDenies(own[key], [...path, key], fail),
  ]
  return { ...own, label, hide: denies('hide'), protect: denies('protect'), review: denies('review') }
}

/** A rule stays when some rule of the base allows all of it. */
function narrowRule(base: readonly RuleEntry[], own: RuleEntry, path: Path, fail: Fail): RuleEntry {
  const host = parseHostPattern(own.host) ?? fail([...path, 'host'], 'its host is malformed')
  const reached = base.filter((entry) => coversHost(parseHostPattern(entry.host), host))
  if (reached.length === 0) fail([...path, 'host'], 'it does not reach this host')
  const why = reached.map((entry) => excess(entry, own))
  const first = why[0]
  if (why.includes(null) || !first) return own
  return fail([...path, first.key], first.why)
}

function coversHost(base: string | null, own: string): boolean {
  if (base === null || base === own) return base !== null
  // A wildcard is covered by a wildcard only: no name that stands for its subdomains is safe from being a base's host.
  return own.startsWith('*.') ? base.startsWith('*.') && own.endsWith(base.slice(1)) : matchesHost(base, own)
}

interface Excess {
  readonly key: keyof RuleEntry
  readonly why: string
}

/** What `own` allows beyond `base`; null for nothing. */
function excess(base: RuleEntry, own: RuleEntry): Excess | null {
  const over = (key: keyof RuleEntry, why: string): Excess => ({ key, why })
  const ports = base.ports ?? DEFAULT_PORTS
  const port = (own.ports ?? DEFAULT_PORTS).find((entry) => !(ports as (string | number)[]).includes(entry))
  if (port !== undefined) return over('ports', `port ${port}`)
  if (base.methods && !own.methods) return over('methods', 'omitted methods mean all')
  const method = own.methods?.find((entry) => base.methods && !base.methods.includes(entry))
  if (method !== undefined) return over('methods', method)
  if (base.paths && !own.paths) return over('paths', 'omitted paths mean all')
  const path = own.paths?.find((entry) => base.paths && !base.paths.some((known) => coversPath(known, entry)))
  if (path !== undefined) return over('paths', path)
  if (rank(own.clearance) > rank(base.clearance)) return over('clearance', 'a higher clearance')
  // Without it the client's own key would pass, so it cannot be left out either.
  if (own.credential !== base.credential)
    return over('credential', own.credential ?? 'keys of the agent’s own choice, for want of the credential')
  if (own.inspect === false && base.inspect !== false) return over('inspect', 'traffic that it inspects')
  if (own.connect !== base.connect) return over('connect', 'another address to dial')
  if (own.ca !== undefined && own.ca !== base.ca) return over('ca', 'other roots')
  return null
}

const rank = (clearance: Label | undefined): number => LABELS.indexOf(clearance ?? DEFAULT_CLEARANCE)

/**
 * Whether every path of glob `own` is one of glob `base`. `own`'s stars are matched as characters: only a star of
 * `base` takes them, and that one takes whatever they stand for.
 */
function coversPath(base: string, own: string): boolean {
  const prefix = own.replace(/\*+$/, '')
  return matchesPath(base, prefix) && (prefix === own || base.endsWith('*'))
}

/** Errors in what the child wrote point into its file, inherited ones into the base's. */
function placeIn(base: ProfileDocument, child: ProfileDocument): ProfileDocument['place'] {
  const own = child.resolved.spec
  return (path) => {
    const [top, section, index, ...rest] = path
    if (top !== 'spec' || section === undefined) return child.place(path)
    if (section === 'hide' || section === 'protect' || section === 'review') {
      const inherited = base.resolved.spec[section]?.length ?? 0
      if (typeof index !== 'number' || index < inherited) return base.place(path)
      return child.place([top, section, index - inherited, ...rest])
    }
    return own[section as keyof ProfileSpec] === undefined ? base.place(path) : child.place(path)
  }
}
