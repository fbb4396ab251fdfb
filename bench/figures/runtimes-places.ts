/** One agent in each runtime and in its bare means, with a tree, a directory and a way to a server. */
import { mkdirSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { debianProgram, loadProgram, sh } from '../cache.ts'
import type { Bench } from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import { placeImage, takeSnapshot } from '../machine-image.ts'
import { familyOf } from '../memory.ts'
import { product, sessionProcess } from '../product.ts'
import { writeProfile } from '../profile.ts'
import { makeTree } from '../tree.ts'
import { guestWithFuse } from './runtimes-guest-fuse.ts'
import { BWRAP, COLD, CONTAINER, ISOLATION, OS_SANDBOX, RUNSC, runscDo, WARM } from './runtimes-start.ts'

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
  /** Added to each order for the server: its address, and whom to trust. */
  readonly order: object
  /** All that there is for it alone. */
  readonly processes: () => readonly number[]
}

/** Starts the agent there. */
export type Opening = () => Promise<Place>

interface Server {
  readonly port: number
  readonly ca: string
}

interface Setting {
  readonly bench: Bench
  readonly load: string
  readonly tree: string
  readonly dir: string
  readonly server: Server
}

type Prepare = (setting: Setting) => Promise<Opening>

const SHARED = 'bwrap --unshare-pid --unshare-ipc --bind / / --proc /proc --dev /dev'.split(' ')

const PREPARE: Readonly<Record<string, Prepare>> = {
  [NATIVE]: async (setting) => bare(setting, []),
  [BWRAP]: async (setting) => bare(setting, SHARED),
  [RUNSC]: async (setting) => bare(setting, runscDo('host')),
  [GUEST_FUSE]: guestFuse,
  [OS_SANDBOX]: (setting) => session(setting, 'os-sandbox'),
  [CONTAINER]: (setting) => session(setting, 'container'),
  [MICROVM]: (setting) => session(setting, 'microvm'),
  [COLD]: (setting) => session(setting, 'microvm'),
  [WARM]: (setting) => session(setting, 'microvm', true),
}

export interface Prepared {
  readonly name: string
  /** Rejected with the reason why it cannot be had. */
  readonly opening: Promise<Opening>
}

/** All that the named places need, each with a tree of its own. `purpose` tells its scratch from others'. */
export async function placesFor(
  bench: Bench,
  purpose: string,
  names: readonly string[],
): Promise<readonly Prepared[]> {
  const load = await loadProgram()
  const own = join(bench.scratch, purpose)
  mkdirSync(own)
  const server = await serve(bench, load, own)
  const first = join(own, 'tree')
  mkdirSync(first)
  await makeTree(first, TREE)
  const prepared: Prepared[] = []
  for (const [index, name] of names.entries()) {
    const tree = join(own, `tree-${index}`)
    const dir = join(own, `dir-${index}`)
    mkdirSync(dir)
    await sh('cp', ['-a', first, tree])
    // A copy has other inodes than git's index says.
    await sh('git', ['-c', 'safe.directory=*', 'status', '--porcelain'], tree)
    const opening = Promise.resolve().then(() => prepare(name, { bench, load, tree, dir, server }))
    // Looked at later, by each workload.
    await opening.catch(() => undefined)
    prepared.push({ name, opening })
  }
  return prepared
}

function prepare(name: string, setting: Setting): Promise<Opening> {
  const of = PREPARE[name]
  if (!of) throw new TypeError(`no place ${name}`)
  return of(setting)
}

async function serve(bench: Bench, load: string, own: string): Promise<Server> {
  const { greeting } = await LineProcess.start(bench, [load, 'upstream', own])
  return { port: Number(greeting.port), ca: join(own, 'ca.pem') }
}

/** Where a place may keep a copy of its tree in its own memory. */
export const ownCopy = (tree: string): string =>
  `/tmp/ambit-bench-${basename(dirname(tree))}-${basename(tree)}`

function bare({ bench, load, tree, dir, server }: Setting, before: readonly string[]): Opening {
  const order = { url: `https://localhost:${server.port}`, ca: server.ca }
  return async () => {
    bench.defer(() => rmSync(ownCopy(tree), { recursive: true, force: true }))
    const { child } = await LineProcess.start(bench, [...before, load, 'agent'], { cwd: tree })
    return { agent: child, tree, dir, order, processes: () => familyOf([child.pid]) }
  }
}

/** As large as a session's machine. */
async function guestFuse({ bench, load, tree, server }: Setting): Promise<Opening> {
  const size = { memory: GUEST_MEMORY, processors: Math.min(2, availableParallelism()) }
  return await guestWithFuse(bench, load, tree, server, size)
}

async function session(setting: Setting, runtime: string, warm = false): Promise<Opening> {
  const { bench, load, tree, dir, server } = setting
  const home = join(bench.scratch, warm ? 'ambit-home-warm' : 'ambit-home')
  const { run, env } = await product(bench, home)
  if (runtime === 'microvm') await placeImage(bench, home)
  const rg = await debianProgram('rg', 'ripgrep')
  const tools = rg.startsWith('/usr/bin/') ? [] : [{ path: dirname(rg), access: 'read' }]
  const rule = { host: 'bench.internal', connect: `127.0.0.1:${server.port}`, ca: server.ca }
  const profile = writeProfile(bench, `place-${basename(dirname(tree))}-${basename(tree)}`, {
    isolation: { runtime, ...ISOLATION, disk: '10GiB' },
    files: [{ path: '${project}', access: 'write' }, { path: dir, access: 'write' }, ...tools],
    network: [{ ...rule, methods: ['GET', 'POST'], paths: ['/*'] }],
    upload: { perRequest: '1GiB', perMinute: '100GiB', perSession: '100GiB' },
  })
  if (warm) await takeSnapshot(home, profile, tree)
  const argv = run(['--profile', profile, '--project', tree, '--', load, 'agent'])
  return async () => {
    const { child } = await LineProcess.start(bench, argv, { env, cwd: tree, patience: 90_000 })
    const supervisor = await sessionProcess(env, tree)
    const order = { url: 'https://bench.internal' }
    return { agent: child, tree, dir, order, processes: () => familyOf([supervisor, child.pid]) }
  }
}
