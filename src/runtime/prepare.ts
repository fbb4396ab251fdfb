import { lstatSync, realpathSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join, relative } from 'node:path'
import { AmbitError } from '../lib/errors.ts'
import { isMemory, makeMemoryDir } from '../lib/memory-dir.ts'
import { agentHomesDir, type Paths } from '../lib/paths.ts'
import { adapterFor } from './agents.ts'
import { buildLaunchSpec, HOSTNAME, type LaunchInput } from './build-launch-spec.ts'
import type { Plan } from '../profile/plan.ts'
import { isWithin } from './closure/guard.ts'
import { boundSockets } from './closure/sockets.ts'
import { gitIdentity } from './git-identity.ts'
import { takeHome } from './home.ts'
import type { LaunchSpec } from './launch-spec.ts'
import { sessionOwner } from './owner.ts'
import type { Ground } from './runtime.ts'
import { inspectHost, makeEtc, writeEtc } from './system-files.ts'
import { findTool } from './tools.ts'

/** What the session knows; the rest is looked up here. */
export type LaunchRequest = Pick<
  LaunchInput,
  'plan' | 'agent' | 'session' | 'argv' | 'cwd' | 'placeholders' | 'terminal' | 'journal' | 'env'
> & {
  readonly ground: Ground
  readonly project: string
  readonly home: string
  readonly paths: Paths
  /** The session's private directory; removed with the session. */
  readonly run: string
}

export interface PreparedLaunch {
  readonly spec: LaunchSpec
  /** Fills the session's /etc, given the certificate of its CA. Before the command starts. */
  readonly fillEtc: (caPem: string) => void
}

/**
 * Finds the host's tools and files, takes the agent's home (until this process ends), and builds the launch spec.
 *
 * @throws AmbitError ERR_RUNTIME_MISSING when a tool is not installed, ERR_PATH_FORBIDDEN for a home that is no home.
 */
export function prepareLaunch(request: LaunchRequest): PreparedLaunch {
  const { env, ground } = request
  refuseSockets(request.plan)
  const tools = { bwrap: findTool('bwrap', 'bubblewrap') }
  const caller = userInfo()
  const { name } = request.agent
  const owner = sessionOwner({ uid: caller.uid, gid: caller.gid }, name, request.project)
  const adapter = adapterFor(request.agent)
  const { agent, host, ...shown } = ground.show({
    agent: request.agent,
    host: inspectHost(),
    home: { agent: name, owner: owner.host },
    etc: { ...adapter.files, ...gitOnPlainMounts(request.plan) },
  })
  const home = takeHome({
    dir: agentHomesDir(request.paths),
    ...shown.home,
    project: request.project,
    mountpoints: mountpointsIn(request),
    seeds: () => ({ ...gitIdentity(request.home), ...adapter.seeds }),
  })
  const user = { name: caller.uid === 0 ? 'agent' : caller.username, shell: shellOf(env) }
  const inside = checkedHome(request.home)
  const etc = placeForEtc(request)
  const person = { ...user, ...owner.inside, home: inside }
  makeEtc(etc, host)
  const spec = buildLaunchSpec({
    ...request,
    cell: ground.cell,
    agent,
    adapter,
    home: { inside, outside: home.path },
    owner,
    user,
    host,
    etc,
    tools,
  })
  const fillEtc = (caPem: string): void =>
    writeEtc(etc, {
      host,
      person,
      hostname: HOSTNAME,
      caPem,
      extra: shown.etc,
    })
  return { spec, fillEtc }
}

/**
 * A plain mount shows other inode numbers, and to root's agent other owners, than git's index has, which then reads each
 * file again at every look. By size and time it knows them, too; nobody inside can write there.
 */
function gitOnPlainMounts(plan: Plan): Record<string, string> {
  const plain = plan.roots.some((root) => root.via === 'mount')
  return plain ? { '/etc/gitconfig': '[core]\n\tcheckStat = minimal\n' } : {}
}

/**
 * In memory where there is some that is meant for it, else beside the spec. Both go with the session. The view shows a
 * part of it to machines, and follows no links on the way.
 */
function placeForEtc({ run, session }: LaunchRequest): string {
  return join(realpathSync((isMemory(run) ? null : makeMemoryDir(session)) ?? run), 'etc')
}

/** A plain mount would let the agent connect to what listens under it; the view would not (C-42). */
function refuseSockets(plan: Plan): void {
  const plain = plan.roots.filter((root) => root.via === 'mount')
  const sockets = plain.length > 0 ? boundSockets() : []
  const exposed = plain.find((root) => sockets.some((socket) => isWithin(socket, root.path)))
  if (!exposed) return
  throw new AmbitError(
    'ERR_PATH_FORBIDDEN',
    exposed.id,
    'a program listens on a socket under this plain mount',
    'use via: view',
  )
}

/** Closures and roots that will be mounted somewhere in the home. */
function mountpointsIn({ home, agent, plan }: LaunchRequest): { path: string; file: boolean }[] {
  const closures = agent.mounts.map(({ path }) => ({ path, file: !lstatSync(path).isDirectory() }))
  const roots = plan.roots.map(({ path }) => ({ path, file: false }))
  return [...closures, ...roots]
    .filter(({ path }) => path !== home && isWithin(path, home))
    .map(({ path, file }) => ({ path: relative(home, path), file }))
}

/** The home's path comes from HOME; the agent's home is mounted over it, so it must not hide the system. */
function checkedHome(home: string): string {
  const depth = home.split('/').filter(Boolean).length
  const taken = ['/usr', '/etc', '/bin', '/sbin', '/lib', '/lib64', '/proc', '/dev', '/run', '/sys'].some(
    (dir) => isWithin(home, dir),
  )
  // It becomes a field of /etc/passwd.
  // oxlint-disable-next-line no-control-regex -- control characters are exactly what this refuses
  const plain = /^\/[^:\x00-\x1f\x7f]+$/.test(home) && !home.split('/').includes('..')
  if (plain && depth > 0 && !taken) return home
  throw new AmbitError(
    'ERR_PATH_FORBIDDEN',
    'home',
    'HOME does not name a home directory',
    'set HOME to your home directory',
  )
}

function shellOf(env: NodeJS.ProcessEnv): string {
  const shell = env.SHELL ?? ''
  return /^\/(usr\/)?(local\/)?bin\/[\w-]+$/.test(shell) && lstatSync(shell, { throwIfNoEntry: false })
    ? shell
    : '/bin/sh'
}
