/** One agent in each runtime and in its bare means, with a tree, a directory and a way to a server. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { debianProgram, loadProgram, sh } from '../cache.ts'
import type { Bench } from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import { placeImage } from '../machine-image.ts'
import { product, sessionProcess } from '../product.ts'
import { writeProfile } from '../profile.ts'
import { makeTree } from '../tree.ts'
import { guestWithFuse } from './runtimes-guest-fuse.ts'
import { BWRAP, CONTAINER, ISOLATION, OS_SANDBOX, RUNSC, runscDo } from './runtimes-start.ts'

export const NATIVE = 'native'
export const MICROVM = 'ambit run, microvm'
export const GUEST_FUSE = 'bare QEMU with TCG, passthrough_hp in the guest'

/** Bytes of a machine's memory. */
export const GUEST_MEMORY = Number.parseInt(ISOLATION.memory, 10) * 2 ** 20

/** TCG is slow: more would take minutes. */
export const TREE = 400

export interface Place {
  readonly agent: LineProcess
  readonly tree: string
  /** Empty; shown as the tree is. */
  readonly dir: string
  /** Where it stands there, if not where it stands here. */
  readonly rg?: string
  /** Added to each order for the server; null where there is no way out. */
  readonly order: object | null
  /** Processes of the session; null where there is none. */
  readonly processes: (() => readonly number[]) | null
}

interface Setting {
  readonly bench: Bench
  readonly load: string
  readonly tree: string
  readonly dir: string
  readonly server: { readonly port: number; readonly ca: string }
}

type Open = (setting: Setting) => Promise<Place>

const PLACES: readonly { readonly name: string; readonly open: Open }[] = [
  { name: NATIVE, open: (setting) => bare(setting, []) },
  {
    name: BWRAP,
    open: (setting) =>
      bare(setting, 'bwrap --unshare-pid --unshare-ipc --bind / / --proc /proc --dev /dev'.split(' ')),
  },
  { name: RUNSC, open: async (setting) => ({ ...(await bare(setting, runscDo())), order: null }) },
  { name: GUEST_FUSE, open: guestFuse },
  { name: OS_SANDBOX, open: (setting) => session(setting, 'os-sandbox') },
  { name: CONTAINER, open: (setting) => session(setting, 'container') },
  { name: MICROVM, open: (setting) => session(setting, 'microvm') },
]

/** Every place, or its promise's reason why not. */
export async function openPlaces(
  bench: Bench,
  only?: readonly string[],
): Promise<readonly { readonly name: string; readonly place: Promise<Place> }[]> {
  const load = await loadProgram()
  const upstream = join(bench.scratch, 'upstream')
  mkdirSync(upstream)
  const { greeting } = await LineProcess.start(bench, [load, 'upstream', upstream])
  const server = { port: Number(greeting.port), ca: join(upstream, 'ca.pem') }
  copyFileSync(server.ca, join(bench.scratch, 'upstream-ca.pem'))
  const first = join(bench.scratch, 'runtime-tree')
  mkdirSync(first)
  await makeTree(first, TREE)
  const places: { name: string; place: Promise<Place> }[] = []
  for (const [index, { name, open }] of PLACES.entries()) {
    if (only && !only.includes(name)) continue
    const tree = join(bench.scratch, `runtime-tree-${index}`)
    const dir = join(bench.scratch, `runtime-dir-${index}`)
    mkdirSync(dir)
    await sh('cp', ['-a', first, tree])
    // A copy has other inodes than git's index says.
    await sh('git', ['-c', 'safe.directory=*', 'status', '--porcelain'], tree)
    const place = open({ bench, load, tree, dir, server })
    // Looked at later, by each workload.
    await place.catch(() => undefined)
    places.push({ name, place })
  }
  return places
}

/** Where a place may keep a copy of its tree in its own memory. */
export const ownCopy = (tree: string): string =>
  `/tmp/ambit-bench-${basename(dirname(tree))}-${basename(tree)}`

async function bare(setting: Setting, before: readonly string[]): Promise<Place> {
  const { bench, load, tree, dir, server } = setting
  bench.defer(() => rmSync(ownCopy(tree), { recursive: true, force: true }))
  const { child } = await LineProcess.start(bench, [...before, load, 'agent'], { cwd: tree })
  const order = { url: `https://localhost:${server.port}`, ca: server.ca }
  return { agent: child, tree, dir, order, processes: null }
}

/** As large as a session's machine. */
async function guestFuse({ bench, load, tree }: Setting): Promise<Place> {
  const size = { memory: GUEST_MEMORY, processors: Math.min(2, availableParallelism()) }
  return { ...(await guestWithFuse(bench, load, tree, size)), order: null, processes: null }
}

async function session(setting: Setting, runtime: string): Promise<Place> {
  const { bench, load, tree, dir, server } = setting
  const home = join(bench.scratch, 'ambit-home')
  const { run, env } = await product(bench, home)
  if (runtime === 'microvm') await placeImage(bench, home)
  const rg = await debianProgram('rg', 'ripgrep')
  const tools = rg.startsWith('/usr/bin/') ? [] : [{ path: dirname(rg), access: 'read' }]
  const rule = { host: 'bench.internal', connect: `127.0.0.1:${server.port}`, ca: './upstream-ca.pem' }
  const profile = writeProfile(bench, `place-${runtime}`, {
    isolation: { runtime, ...ISOLATION, disk: '10GiB' },
    files: [{ path: '${project}', access: 'write' }, { path: dir, access: 'write' }, ...tools],
    network: [{ ...rule, methods: ['GET', 'POST'], paths: ['/*'] }],
    upload: { perRequest: '1GiB', perMinute: '100GiB', perSession: '100GiB' },
  })
  const argv = run(['--profile', profile, '--project', tree, '--', load, 'agent'])
  const { child } = await LineProcess.start(bench, argv, { env, cwd: tree, patience: 90_000 })
  const supervisor = await sessionProcess(env, tree)
  const order = { url: 'https://bench.internal' }
  return { agent: child, tree, dir, order, processes: () => familyOf([supervisor, child.pid]) }
}

/** The processes and all that descend from them. */
function familyOf(roots: readonly number[]): readonly number[] {
  const family = new Set(roots)
  const all = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const parents = all.map((name) => [Number(name), parentOf(name)] as const)
  for (let before = 0; before < family.size; ) {
    before = family.size
    for (const [pid, parent] of parents) if (family.has(parent)) family.add(pid)
  }
  return [...family]
}

function parentOf(pid: string): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
  } catch {
    return -1 // gone meanwhile
  }
}
