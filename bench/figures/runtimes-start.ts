/** How long it takes until the first word of the first command, in each runtime and its bare means. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, globSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { bootsGuest } from '../../src/runtime/accelerator/boot.ts'
import { lookForRunsc } from '../../src/runtime/gvisor.ts'
import { lookForTool } from '../../src/runtime/tools.ts'
import type { Bench } from '../figure.ts'
import { packagedKernel, placeImage, takeSnapshot } from '../machine-image.ts'
import { attempt } from '../peers/attempt.ts'
import { product } from '../product.ts'
import { writeProfile } from '../profile.ts'
import type { Contender } from '../stats.ts'

export const BARE = 'bare process'
export const BWRAP = 'bare bwrap'
export const RUNSC = 'bare runsc do'
export const QEMU = 'bare QEMU with TCG: Debian’s kernel as packaged, and the initramfs'
export const UNPACKED = 'the same QEMU, with the kernel of the image, unpacked'
export const OS_SANDBOX = 'ambit run, os-sandbox'
export const CONTAINER = 'ambit run, container'
export const COLD = 'ambit run, microvm, cold'
export const WARM = 'ambit run, microvm, from a snapshot'

/** Of the microVMs: half a GiB is enough for a shell, git and a Go program. */
export const ISOLATION = { limits: 'partly', memory: '512MiB', processes: 256 } as const

const SAYS = ['/bin/echo', 'up']
const BWRAP_ARGV = 'bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev'.split(' ')

/** `runsc` as its own documentation runs one command. @throws Error where it is not installed. */
export function runscDo(network: 'none' | 'host'): string[] {
  const path = lookForRunsc()
  if (!path) throw new Error('runsc is not installed')
  return [path, '--rootless', `--network=${network}`, '--ignore-cgroups', 'do']
}

export async function starts(bench: Bench): Promise<readonly Contender[]> {
  const project = join(bench.scratch, 'start-project')
  mkdirSync(project)
  const prepare: readonly (readonly [string, () => Promise<Contender>])[] = [
    [RUNSC, async () => firstWord(RUNSC, [...runscDo('none'), ...SAYS])],
    [QEMU, () => bareMachine(bench, QEMU)],
    [UNPACKED, () => bareMachine(bench, UNPACKED)],
    [OS_SANDBOX, () => session(bench, OS_SANDBOX, 'os-sandbox', project)],
    [CONTAINER, () => session(bench, CONTAINER, 'container', project)],
    [COLD, () => session(bench, COLD, 'microvm', project)],
    [WARM, () => session(bench, WARM, 'microvm', project)],
  ]
  const contenders = [firstWord(BARE, SAYS), firstWord(BWRAP, [...BWRAP_ARGV, ...SAYS])]
  // One after the other: the first of them may have to build the image.
  for (const [name, make] of prepare) contenders.push(await attempt(name, make))
  const sessions = [OS_SANDBOX, CONTAINER, COLD, WARM]
  return contenders.map((one) => (sessions.includes(one.name) ? thenRest(bench, one) : one))
}

/**
 * As it is for a person, who does not start a session each second: no session host of an earlier start is loading
 * beside the next one, which would cost it, bare or not, up to a fifth of a second.
 */
function thenRest(bench: Bench, { name, measure }: Contender): Contender {
  const measureAndRest = async (): Promise<readonly number[]> => {
    const values = await measure()
    await new Promise((resolve) => setTimeout(resolve, REST))
    for (const home of homesOf(bench)) await hostReady(home)
    return values
  }
  return { name, measure: measureAndRest }
}

/** Milliseconds. The daemon loads a new session host one second after one was taken. */
const REST = 1100

const homesOf = (bench: Bench): readonly string[] =>
  globSync('home-*', { cwd: bench.scratch }).map((name) => join(bench.scratch, name))

/** A kernel and the initramfs of the image, until the guest's agent says its first word; no session, no cell. */
async function bareMachine(bench: Bench, name: string): Promise<Contender> {
  const qemu = lookForTool('qemu-system-x86_64')
  if (!qemu) throw new Error('qemu-system-x86_64 is not installed')
  const built = await placeImage(bench, join(bench.scratch, `bare-machine-${name.length}`))
  const image = name === QEMU ? { ...built, kernel: await packagedKernel(bench) } : built
  const measure = async (): Promise<readonly number[]> => {
    const began = performance.now()
    const why = await bootsGuest({ qemu, image }, 'tcg', process.getuid?.() ?? 0, 60_000)
    if (why !== null) throw new Error(why)
    return [performance.now() - began]
  }
  return { name, measure }
}

async function session(bench: Bench, name: string, runtime: string, project: string): Promise<Contender> {
  const home = join(bench.scratch, `home-${name.replaceAll(/\W+/g, '-')}`)
  const { run, env } = await product(bench, home)
  const isolation = { runtime, ...ISOLATION }
  const files = [{ path: '${project}', access: 'write' }]
  const profile = writeProfile(bench, `start-${name.replaceAll(/\W+/g, '-')}`, { isolation, files })
  if (runtime === 'microvm') await placeImage(bench, home)
  if (name === WARM) await takeSnapshot(home, profile, project)
  return firstWord(name, run(['--profile', profile, '--project', project, '--', ...SAYS]), project, env)
}

async function hostReady(home: string): Promise<void> {
  for (let waited = 0; !existsSync(join(home, 'run/session.sock')); waited += 50) {
    if (waited > 20_000) throw new Error('no session host came up')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** In one language everywhere, as sessions have it: it is files to open before the first word. */
function firstWord(name: string, argv: readonly string[], cwd = '/', env = process.env): Contender {
  const alike = { ...env, LANG: 'C.UTF-8' }
  return { name, measure: async () => [await untilFirstWord(argv, cwd, alike)] }
}

/** Milliseconds from the spawn to the first byte; resolves when the command has ended. */
function untilFirstWord(argv: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Promise<number> {
  const [program, ...args] = argv
  return new Promise((resolve, reject) => {
    const began = performance.now()
    let took = Number.NaN
    const child: ChildProcess = spawn(program ?? '', args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] })
    let complaint = ''
    child.stdout?.once('data', () => (took = performance.now() - began))
    child.stderr?.on('data', (text: Buffer) => (complaint += text.toString()))
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0 && !Number.isNaN(took)) resolve(took)
      else reject(new Error(`exit ${code}: ${complaint.trim().split('\n').at(-1)?.slice(0, 160)}`))
    })
  })
}
