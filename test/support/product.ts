/**
 * The built product, copied to where every user can read it (the checkout may lie in a private directory), with the
 * probe and a Node of its own beside it. Made once per build; test processes share it.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

const checkout = join(import.meta.dirname, '../..')

export interface Product {
  /** The `ambit` command. */
  readonly ambit: string
  /** A Node 24 outside the product, as an agent's interpreter would be. */
  readonly node: string
  /** The system-call probe, static. */
  readonly probe: string
  /** The interpreter of steps (support/probe/inside.cjs). */
  readonly inside: string
  readonly root: string
}

const SHIPPED = [
  'ambit',
  'package.json',
  'profiles',
  'policies',
  '.build/complete',
  '.build/node',
  '.build/ambit.cjs',
  '.build/ambit-main.cjs',
  '.build/ambitd.cjs',
  '.build/ambitd-main.cjs',
  '.build/cache',
  '.build/native.node',
  '.build/bin',
]

const SOURCES = ['test/support/probe/probe.c', 'test/support/probe/inside.cjs']

/** Where products and stages lie: a place that no sandbox replaces (it has its own /tmp). */
export const shelf = process.getuid?.() === 0 ? '/var/lib/ambit-test' : join(homedir(), '.cache/ambit-test')

/** Copies the product if this build was not copied yet. Throws with what is missing when it is not built. */
export function product(): Product {
  const missing = SHIPPED.filter((path) => !existsSync(join(checkout, path)))
  if (missing.length > 0)
    throw new Error(`the product is not built: no ${missing.join(', ')}; run ./dev build`)
  const root = join(shelf, `product-${buildKey()}`)
  if (!existsSync(root)) install(root)
  return {
    root,
    ambit: join(root, 'ambit/ambit'),
    node: join(root, 'node24/bin/node'),
    probe: join(root, 'probe/probe'),
    inside: join(root, 'probe/inside.cjs'),
  }
}

/** Changes with every build: size and time of what is copied. */
function buildKey(): string {
  const hash = createHash('sha256')
  for (const path of [...SHIPPED, ...SOURCES]) {
    const { size, mtimeMs } = statSync(join(checkout, path))
    hash.update(`${path} ${size} ${mtimeMs}\n`)
  }
  for (const name of readdirSync(join(checkout, '.build/bin')))
    hash.update(`${name} ${statSync(join(checkout, '.build/bin', name)).mtimeMs}\n`)
  return hash.digest('hex').slice(0, 12)
}

/** Builds aside and renames: of two processes that install at once, one wins and the other's copy goes. */
function install(root: string): void {
  mkdirSync(dirname(root), { recursive: true, mode: 0o755 })
  dropOld(dirname(root))
  const aside = `${root}.${process.pid}`
  for (const path of SHIPPED) cpSync(join(checkout, path), join(aside, 'ambit', path), { recursive: true })
  mkdirSync(join(aside, 'node24/bin'), { recursive: true })
  cpSync(join(checkout, '.build/node'), join(aside, 'node24/bin/node'))
  mkdirSync(join(aside, 'probe'))
  cpSync(join(checkout, 'test/support/probe/inside.cjs'), join(aside, 'probe/inside.cjs'))
  compileProbe(join(aside, 'probe/probe'))
  execFileSync('chmod', ['-R', 'a+rX', aside])
  chmodSync(dirname(root), 0o755)
  try {
    renameSync(aside, root)
  } catch (error) {
    rmSync(aside, { recursive: true, force: true })
    if (!existsSync(root)) throw error
  }
}

/** Copies of builds that nobody tests any more; another run may still use one of the last hour. */
function dropOld(folder: string): void {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    // Another process may be about to rename its own.
    const made = statSync(path, { throwIfNoEntry: false })?.ctimeMs ?? Date.now()
    if (name.startsWith('product-') && Date.now() - made > 3_600_000)
      rmSync(path, { recursive: true, force: true })
  }
}

/** Tells other test runs that this copy is still in use; for tests that come near the hour. */
export function keepProduct({ root }: Product): void {
  utimesSync(root, new Date(), new Date())
}

/** Static, so that it needs nothing of what the sandbox shows. */
function compileProbe(output: string): void {
  const source = join(checkout, 'test/support/probe/probe.c')
  execFileSync('cc', ['-O1', '-static', '-Wall', '-Werror', '-o', output, source], { stdio: 'pipe' })
}
