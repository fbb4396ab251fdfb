/** Document → plan: what a profile means for one session on this machine. */
import { delimiter } from 'node:path'
import type { Paths } from '../lib/paths.ts'
import { parseDuration, parseSize } from '../lib/units.ts'
import { digestOf } from './canonical.ts'
import { type FullSpec, withDefaults } from './defaults.ts'
import type { ProfileDocument } from './load.ts'
import { compileMirror } from './mirror.ts'
import { requireMountable } from './mount-check.ts'
import { compileNetwork } from './network.ts'
import type { Plan } from './plan.ts'
import { compileRoots } from './roots.ts'
import { compileCredentials, compileEnvironment } from './secrets.ts'
import { realOf, territories, within } from './territory.ts'
import type { VariableName, Variables } from './variables.ts'
import type { Path } from './yaml.ts'
import { invalid } from './invalid.ts'

/**
 * Looks at the file system (do roots exist, what do their names resolve to), changes nothing.
 *
 * @throws AmbitError ERR_PROFILE_INVALID, ERR_PATH_FORBIDDEN
 */
export function compilePlan(document: ProfileDocument, variables: Variables, paths: Paths): Plan {
  const { resolved, place } = document
  const spec = withDefaults(resolved.spec)
  const values = valuesOf(variables)
  const searchPath = variables.searchPath ?? (process.env.PATH ?? '').split(delimiter)
  const own = territories(paths)
  const roots = compileRoots(spec, {
    place,
    values,
    territories: own,
    searchPath,
    profileFile: document.file,
  })
  for (const root of roots) if (root.via === 'mount') requireMountable(root)
  return {
    version: 1,
    profile: {
      name: resolved.metadata.name,
      title: resolved.metadata.title ?? resolved.metadata.name,
      digest: digestOf(resolved),
      origin: document.origin,
      file: document.file,
    },
    isolation: compileIsolation(spec, place),
    roots,
    mirror: compileMirror(spec, place, values, own),
    network: compileNetwork(spec, place),
    upload: {
      perRequest: size(spec.upload.perRequest, place, ['spec', 'upload', 'perRequest']),
      perMinute: size(spec.upload.perMinute, place, ['spec', 'upload', 'perMinute']),
      perSession: size(spec.upload.perSession, place, ['spec', 'upload', 'perSession']),
    },
    credentials: compileCredentials(spec, place, values, roots),
    environment: compileEnvironment(spec, place),
    desktop: spec.desktop,
    approvals: spec.approvals,
  }
}

/** How strongly a profile isolates, and within which limits; the same on whatever it is used. */
export const isolationIn = ({ resolved, place }: ProfileDocument): Plan['isolation'] =>
  compileIsolation(withDefaults(resolved.spec), place)

/** The home's own links are the administrator's (`/home` on another disk); every other path must be named as it is. */
function valuesOf(variables: Variables): Record<VariableName, string> {
  const home = realOf(variables.home)
  const named = (path: string): string =>
    within(path, variables.home) ? home + path.slice(variables.home.length) : path
  const workspace = named(variables.workspace)
  return {
    project: named(variables.project),
    workspace,
    mirror: variables.mirror === undefined ? `${workspace}-mirror` : named(variables.mirror),
    home,
  }
}

function compileIsolation(spec: FullSpec, place: (path: Path) => string): Plan['isolation'] {
  const { isolation } = spec
  const wallclock = parseDuration(isolation.wallclock)
  if (wallclock === null || wallclock === 0)
    throw invalid(place(['spec', 'isolation', 'wallclock']), 'is no time above zero')
  return {
    ...isolation,
    wallclock,
    memory: size(isolation.memory, place, ['spec', 'isolation', 'memory']),
    disk: size(isolation.disk, place, ['spec', 'isolation', 'disk']),
  }
}

function size(text: string, place: (path: Path) => string, path: Path): number {
  const bytes = parseSize(text)
  if (bytes === null) throw invalid(place(path), 'is too large a size')
  return bytes
}
