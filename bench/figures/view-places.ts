/** Where the file workloads run: each place shows a tree and a tmpfs directory through one file system. */
import { writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { makeDir } from '../../src/lib/make-dir.ts'
import type { Paths } from '../../src/lib/paths.ts'
import { compilePlan } from '../../src/profile/compile.ts'
import { loadProfile } from '../../src/profile/load.ts'
import type { ViewSpec } from '../../src/view/view-spec.ts'
import { debianProgram } from '../cache.ts'
import type { Bench } from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import { bindfs, type Mount, passthroughHp } from '../peers/mounts.ts'
import { descendant, product } from '../product.ts'
import { writeProfile } from '../profile.ts'

export interface Place {
  /** Runs where the file system is seen. */
  readonly agent: LineProcess
  /** As seen by the agent. */
  readonly tree: string
  readonly tmp: string
  /** The tmpfs directory as seen by the bench. */
  readonly tmpBacking: string
  /** Whether the tmpfs directory is seen as in no other place; else only the tree is worth measuring. */
  readonly ownTmp: boolean
  /** The process that serves the file system, where its system calls can be counted. */
  readonly server?: number
  /** The agent's process as the host counts, where its system calls can be counted. */
  readonly client?: number
}

interface Backing {
  readonly bench: Bench
  /** The load program. */
  readonly load: string
  readonly tree: string
  readonly tmp: string
  /** Directory for mount points; to be made. */
  readonly mounts: string
}

export const NATIVE = 'native'
export const VIEW = 'view, write'
export const REVIEW = 'view, review'
export const SESSION = 'session, write'
export const VIA_MOUNT = 'session, read, via: mount'

export const PLACES: readonly {
  readonly name: string
  readonly open: (backing: Backing) => Promise<Place>
}[] = [
  { name: NATIVE, open: (backing) => native(backing) },
  { name: VIEW, open: (backing) => viewMount(backing, 'write') },
  { name: REVIEW, open: (backing) => viewMount(backing, 'review') },
  { name: SESSION, open: (backing) => session(backing, { access: 'write' }) },
  { name: VIA_MOUNT, open: (backing) => session(backing, { access: 'read', hide: ['!**'], via: 'mount' }) },
  { name: 'bindfs', open: (backing) => passedThrough(backing, bindfs) },
  { name: 'passthrough_hp', open: (backing) => passedThrough(backing, passthroughHp) },
]

async function native({ bench, load, tree, tmp }: Backing): Promise<Place> {
  const { child } = await LineProcess.start(bench, [load, 'agent'])
  return { agent: child, tree, tmp, tmpBacking: tmp, ownTmp: true, client: child.pid }
}

async function passedThrough({ bench, load, tree, tmp, mounts }: Backing, mount: Mount): Promise<Place> {
  await mount(bench, tree, join(mounts, 'tree'))
  await mount(bench, tmp, join(mounts, 'tmp'))
  const { child } = await LineProcess.start(bench, [load, 'agent'])
  return { agent: child, tree: join(mounts, 'tree'), tmp: join(mounts, 'tmp'), tmpBacking: tmp, ownTmp: true }
}

/** The view alone, with the rules that a session's would have. */
async function viewMount(backing: Backing, access: 'write' | 'review'): Promise<Place> {
  const { bench, load, tree, tmp, mounts } = backing
  const mount = join(mounts, 'mount')
  makeDir(mount, 0o777)
  const spec = viewSpec(backing, access)
  const file = join(mounts, 'view.json')
  writeFileSync(file, JSON.stringify(spec))
  const program = join(import.meta.dirname, '../../.build/bin/ambit-view')
  const { child } = await LineProcess.start(bench, [program, 'mount', file, mount, '--', load, 'agent'])
  const seen = (path: string): string =>
    join(mount, String(spec.roots.findIndex((root) => root.path === path)))
  return { agent: child, tree: seen(tree), tmp: seen(tmp), tmpBacking: tmp, ownTmp: true, server: child.pid }
}

/** What `session/wire.ts` would tell the view. */
function viewSpec({ bench, tree, tmp, mounts }: Backing, access: 'write' | 'review'): ViewSpec {
  const files = [
    { path: '${project}', access },
    { path: tmp, access: 'write' },
  ]
  const profile = writeProfile(bench, `view-${access}`, { isolation: { disk: '100GiB' }, files })
  const paths: Paths = {
    config: join(mounts, 'config'),
    state: join(mounts, 'state'),
    run: join(mounts, 'run'),
  }
  const variables = { project: tree, workspace: join(mounts, 'workspace'), home: '/nonexistent' }
  const plan = compilePlan(loadProfile(profile, paths), variables, paths)
  const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0]
  return {
    version: 1,
    session: 'bench',
    journal: join(mounts, 'view.wal'),
    owner: { hostUid: uid, hostGid: gid, uid, gid },
    quota: { bytes: plan.isolation.disk, inodes: 10_000_000 },
    roots: plan.roots.map(({ path, access, label, hide, protect, review }, index) => {
      const upper = access === 'review' || review.length > 0 ? join(mounts, `upper-${index}`) : null
      if (upper) for (const part of ['files', 'meta']) makeDir(join(upper, part), 0o777)
      return { index, path, access, label, hide, protect, review, upper, nested: [] }
    }),
  }
}

/** A whole session. Its programs come from the system; what the bench brought is a root of its own. */
async function session(backing: Backing, project: object): Promise<Place> {
  const { bench, load, tree, tmp, mounts } = backing
  const { run, env } = await product(bench)
  const files = [
    { path: '${project}', ...project },
    { path: tmp, access: 'write' },
    { path: '${workspace}', access: 'write' },
  ]
  const rg = await debianProgram('rg', 'ripgrep').catch(() => null)
  const tools = rg && !rg.startsWith('/usr/bin/') ? [{ path: dirname(rg), access: 'read' }] : []
  const isolation = { disk: '100GiB', memory: '16GiB' }
  const name = `session-${mounts.split('-').at(-1)}`
  const profile = writeProfile(bench, name, { isolation, files: [...files, ...tools] })
  const args = [
    '--profile',
    profile,
    '--project',
    tree,
    '--workspace',
    join(mounts, 'workspace'),
    '--',
    load,
    'agent',
  ]
  const { child } = await LineProcess.start(bench, run(args), { env, cwd: tree })
  const client = descendant(child.pid, `${load} agent`)
  return { agent: child, tree, tmp, tmpBacking: tmp, ownTmp: !('via' in project), ...(client && { client }) }
}
