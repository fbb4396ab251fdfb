/** The image of microVMs for sessions of the bench: built once for each guest agent, by the command itself. */
import { createHash } from 'node:crypto'
import { cpSync, existsSync, globSync, linkSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { imagesDir, keysDir, type Paths, resolvePaths } from '../src/lib/paths.ts'
import { type Image, verifyImage } from '../src/runtime/microvm-image/verify.ts'
import { CACHE, sh } from './cache.ts'
import type { Bench } from './figure.ts'

const ROOT = join(import.meta.dirname, '..')

const placeOf = (paths: Paths): string => join(imagesDir(paths), 'default')

/** Puts the image, and the key that signed it, where sessions of the Ambit in `home` look for them. */
export async function placeImage(bench: Bench, home: string): Promise<Image> {
  const built = resolvePaths({ AMBIT_HOME: await builtHome(bench) })
  const own = resolvePaths({ AMBIT_HOME: home })
  mkdirSync(placeOf(own), { recursive: true, mode: 0o700 })
  for (const name of readdirSync(placeOf(built)))
    linkOrCopy(join(placeOf(built), name), join(placeOf(own), name))
  cpSync(keysDir(built), keysDir(own), { recursive: true })
  return await verifyImage(placeOf(own), own)
}

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to)
  } catch {
    cpSync(from, to) // another file system
  }
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
  mkdirSync(aside, { recursive: true, mode: 0o700 })
  await sh('env', [`AMBIT_HOME=${aside}`, join(ROOT, 'ambit'), 'image', 'build'])
  renameSync(aside, home)
  return home
}
