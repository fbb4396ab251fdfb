/** FUSE file systems that pass a directory through: bindfs, and libfuse's passthrough_hp built from Debian's source. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../../src/lib/make-dir.ts'
import { CACHE, debianLibraries, debianProgram, debianSource, sh } from '../cache.ts'
import type { Bench } from '../figure.ts'

/** Mounts `source` on `target` and unmounts it at the end. */
export type Mount = (bench: Bench, source: string, target: string) => Promise<void>

/** bindfs as fast as its manual makes it: threads, and attributes and names cached for a minute. */
export const bindfs: Mount = async (bench, source, target) => {
  const program = await debianProgram('bindfs', 'bindfs')
  const cached = 'attr_timeout=60,entry_timeout=60,negative_timeout=60'
  const argv = [program, '-f', '--multithreaded', '-o', cached, source, target]
  await mounted(bench, argv, target, { ...process.env, LD_LIBRARY_PATH: debianLibraries('bindfs') })
}

/** It keeps a descriptor for each inode: the tree must have fewer than the hard limit. */
export const passthroughHp: Mount = async (bench, source, target) => {
  const program = await buildPassthroughHp()
  await mounted(bench, [program, '--foreground', source, target], target)
}

/** Its path; built once. */
export async function buildPassthroughHp(): Promise<string> {
  const out = join(CACHE, 'passthrough_hp')
  if (existsSync(out)) return out
  const example = join(await debianSource('fuse3'), 'example/passthrough_hp.cc')
  const flags = (await sh('pkg-config', ['--cflags', '--libs', 'fuse3'])).trim().split(/\s+/)
  await sh('g++', ['-O2', '-std=c++17', example, ...flags, '-o', out])
  return out
}

async function mounted(
  bench: Bench,
  argv: readonly string[],
  target: string,
  env = process.env,
): Promise<void> {
  makeDir(target, 0o777)
  const before = statSync(target).dev
  const child = spawn(argv[0] ?? '', argv.slice(1), { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let complaint = ''
  child.stderr.on('data', (text: Buffer) => (complaint += text.toString()))
  child.on('error', (error) => (complaint += error.message))
  bench.defer(() => unmount(target, child))
  for (let waited = 0; waited < 5000; waited += 20) {
    if (statSync(target).dev !== before) return
    if (child.exitCode !== null) break
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`${argv[0]} did not mount: ${complaint.trim().split('\n').at(-1) ?? ''}`)
}

async function unmount(target: string, child: ChildProcess): Promise<void> {
  await sh('fusermount3', ['-u', '-z', target]).catch(() => undefined)
  child.kill('SIGTERM')
}
