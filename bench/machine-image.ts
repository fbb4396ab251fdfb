/** The image of microVMs for sessions of the bench: built once for each guest agent, by the command itself. */
import { createHash } from 'node:crypto'
import { chmodSync, cpSync, existsSync, globSync, linkSync, readdirSync } from 'node:fs'
import { readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../src/lib/make-dir.ts'
import { imagesDir, keysDir, type Paths, resolvePaths } from '../src/lib/paths.ts'
import { type Image, verifyImage } from '../src/runtime/microvm-image/verify.ts'
import { CACHE, sh } from './cache.ts'
import type { Bench } from './figure.ts'

const ROOT = join(import.meta.dirname, '..')
const PACKAGES = join(CACHE, 'packages-of-images')

const placeOf = (paths: Paths): string => join(imagesDir(paths), 'default')
/** Not the default place, for which the command would also take a snapshot. */
const builtIn = (home: string): string => join(home, 'image')

/** Puts the image, and the key that signed it, where sessions of the Ambit in `home` look for them. */
export async function placeImage(bench: Bench, home: string): Promise<Image> {
  const from = await builtHome(bench)
  const own = resolvePaths({ AMBIT_HOME: home })
  makeDir(placeOf(own))
  for (const name of readdirSync(builtIn(from)))
    linkOrCopy(join(builtIn(from), name), join(placeOf(own), name))
  cpSync(keysDir(resolvePaths({ AMBIT_HOME: from })), keysDir(own), { recursive: true })
  return await verifyImage(placeOf(own), own)
}

/** Has the Ambit in `home` keep a machine of the profile's size that sessions go on from. */
export async function takeSnapshot(home: string, profile: string, project: string): Promise<void> {
  const words = ['image', 'warm', '--profile', profile]
  await sh('env', [`AMBIT_HOME=${home}`, join(ROOT, 'ambit'), ...words], project)
}

function linkOrCopy(from: string, to: string): void {
  if (existsSync(to)) return // placed before, for another of its sessions
  try {
    linkSync(from, to)
  } catch {
    cpSync(from, to) // another file system
  }
}

/** The kernel that the image's was made from, as Debian packages it: it unpacks itself. */
export async function packagedKernel(bench: Bench): Promise<string> {
  await builtHome(bench)
  const [name] = globSync('kernel/linux-image-*.deb', { cwd: PACKAGES }).toSorted().slice(-1)
  if (name === undefined) throw new Error("the kernel's package is not in the cache")
  const tree = join(bench.scratch, 'packaged-kernel')
  await sh('dpkg-deb', ['--extract', join(PACKAGES, name), tree])
  const [kernel] = globSync('boot/vmlinuz-*', { cwd: tree })
  if (kernel === undefined) throw new Error('the package holds no kernel')
  return join(tree, kernel)
}

async function builtHome(bench: Bench): Promise<string> {
  const parts = [join(ROOT, '.build/bin/ambit-guest')]
  for (const name of globSync('src/runtime/microvm-image/*.ts', { cwd: ROOT }).toSorted())
    parts.push(join(ROOT, name))
  const hash = createHash('sha256')
  for (const part of parts) hash.update(readFileSync(part))
  const home = join(CACHE, `image-${hash.digest('hex').slice(0, 16)}`)
  if (existsSync(home)) return home
  bench.say('building the image of microVMs, once')
  for (const old of globSync('image-*', { cwd: CACHE })) rmSync(join(CACHE, old), { recursive: true })
  const aside = `${home}.new`
  for (const dir of [PACKAGES, imagesDir(resolvePaths({ AMBIT_HOME: aside }))]) makeDir(dir)
  chmodSync(aside, 0o700)
  symlinkSync(PACKAGES, join(imagesDir(resolvePaths({ AMBIT_HOME: aside })), '.cache'))
  const build = ['image', 'build', '--out', builtIn(aside)]
  await sh('env', [`AMBIT_HOME=${aside}`, join(ROOT, 'ambit'), ...build])
  renameSync(aside, home)
  return home
}
