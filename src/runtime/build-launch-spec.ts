import { posix } from 'node:path'
import type { Plan } from '../profile/plan.ts'
import { type Agent, BIN } from './closure.ts'
import { isWithin } from './closure/guard.ts'
import { buildEnvironment } from './environment.ts'
import type { LaunchCell, LaunchMount, LaunchSpec } from './launch-spec.ts'
import type { Owner } from './owner.ts'
import { etcMounts, type HostSystem } from './system-files.ts'
import { unavailableCommands } from './unavailable.ts'

/** Everything a spec follows from. Plain values: the host was inspected before. */
export interface LaunchInput {
  readonly plan: Plan
  readonly agent: Agent
  /** Settings of the agent's adapter. */
  readonly adapter: { readonly env: Readonly<Record<string, string>> }
  readonly session: string
  readonly argv: readonly string[]
  readonly cwd: string
  /** Credential name → placeholder. */
  readonly placeholders: ReadonlyMap<string, string>
  readonly terminal: boolean
  readonly journal: string
  /** The user's real home path, and the Ambit-owned directory that is mounted there. */
  readonly home: { readonly inside: string; readonly outside: string }
  readonly env: NodeJS.ProcessEnv
  readonly owner: Owner
  readonly user: { readonly name: string; readonly shell: string }
  readonly host: HostSystem
  /** The directory that `writeEtc` filled. */
  readonly etc: string
  readonly tools: { readonly bwrap: string }
  readonly cell: LaunchCell
}

export const HOSTNAME = 'ambit'

/** Listening sockets inside the namespace: high and odd, so that the agent's own servers do not collide. */
export const PORTS = { tcp: 61_801, dns: 61_853, proxy: 61_880 } as const

/** More would let one session use up the descriptors of the view, which serves them all from one table. */
const OPEN_FILES = 65_536

/**
 * Says what the session's world consists of. Pure.
 *
 * Order matters, later mounts cover earlier ones: system, /etc, private directories, home, closure, view. So no closure
 * can cover a root of the view, and nothing the agent left in its home can stand where a closure or root belongs.
 */
export function buildLaunchSpec(input: LaunchInput): LaunchSpec {
  const { plan, agent, owner } = input
  return {
    version: 2,
    session: input.session,
    tools: input.tools,
    cell: input.cell,
    host: owner.host,
    inside: owner.inside,
    hostname: HOSTNAME,
    mounts: [
      ...input.host.mounts,
      ...etcMounts(input.etc, input.host),
      ...privateDirectories(plan, agent),
      { kind: 'bind', source: input.home.outside, target: input.home.inside, write: true },
      ...closureMounts(agent),
      ...viewMounts(plan),
    ],
    argv: [agent.argv0, ...input.argv.slice(1)],
    env: buildEnvironment({
      plan,
      agent,
      adapter: input.adapter.env,
      user: { ...input.user, home: input.home.inside },
      caller: input.env,
      placeholders: placeholderVariables(plan, input.placeholders),
    }),
    cwd: startDirectory(input),
    terminal: input.terminal,
    ports: PORTS,
    limits: { ...limitsOf(plan), openFiles: OPEN_FILES },
    journal: input.journal,
  }
}

function privateDirectories(plan: Plan, agent: Agent): LaunchMount[] {
  // They are memory, so no more than the session may have; the page cache of the home does not count.
  const size = Math.min(plan.isolation.disk, plan.isolation.memory)
  return [
    { kind: 'tmpfs', target: '/tmp', size, mode: 0o1777 },
    { kind: 'tmpfs', target: '/var/tmp', size, mode: 0o1777 },
    { kind: 'tmpfs', target: '/run', size: 16 << 20, mode: 0o755 },
    { kind: 'symlink', target: '/var/run', link: '/run' },
    { kind: 'dir', target: BIN, mode: 0o755 },
    ...uniqueLinks(agent).map(
      ({ name, target }): LaunchMount => ({ kind: 'symlink', target: `${BIN}/${name}`, link: target }),
    ),
    ...unavailableCommands(new Set(agent.links.map(({ name }) => name))),
  ]
}

/** The first one wins: a command named like its interpreter is the command. */
function uniqueLinks(agent: Agent): Agent['links'] {
  return agent.links.filter(
    (link, index) => agent.links.findIndex((other) => other.name === link.name) === index,
  )
}

const byDepth = (a: { path: string }, b: { path: string }): number =>
  a.path.split('/').length - b.path.split('/').length

function closureMounts(agent: Agent): LaunchMount[] {
  return [...agent.mounts]
    .sort(byDepth)
    .map(({ path }) => ({ kind: 'bind', source: path, target: path, write: false }))
}

/** Roots by depth, so that a workspace inside the project lies over it. The index is the view's name for the root. */
function viewMounts(plan: Plan): LaunchMount[] {
  return plan.roots
    .map((root, index) => ({ path: root.path, via: root.via, index }))
    .sort(byDepth)
    .map(({ path, via, index }) =>
      via === 'mount'
        ? { kind: 'plain', source: path, target: path }
        : { kind: 'view', root: index, target: path },
    )
}

function placeholderVariables(plan: Plan, placeholders: ReadonlyMap<string, string>): Record<string, string> {
  const pairs = plan.credentials.flatMap(({ name, env }) => {
    const value = placeholders.get(name)
    return env !== null && value !== undefined ? [[env, value] as const] : []
  })
  return Object.fromEntries(pairs)
}

/** The caller's directory where it is visible inside, else the project, else the home (C-37). */
function startDirectory({ plan, cwd, home }: LaunchInput): string {
  const path = posix.resolve('/', cwd)
  if (plan.roots.some((root) => isWithin(path, root.path))) return path
  return plan.roots.find((root) => root.variable === 'project')?.path ?? home.inside
}

function limitsOf({ isolation }: Plan): Omit<LaunchSpec['limits'], 'openFiles'> {
  const { processes, memory, cpus, wallclock, disk } = isolation
  return { processes, memory, cpus, wallclock, disk }
}
