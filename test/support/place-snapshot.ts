/**
 * A machine that has booted, put where a stage's sessions look for one: they go on from it, as most sessions of a user
 * do. Of the size that the suite's stages ask for; a case that asks for another boots. Written down once for a build, an
 * image and an account.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chownSync, cpSync, existsSync, mkdirSync } from 'node:fs'
import { readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { keysDir } from '../../src/lib/paths.ts'
import { linkOrCopy, sharedImage } from './place-image.ts'
import type { Stage } from './stage.ts'
import { account, identity } from './users.ts'

export async function placeSnapshot(stage: Stage, profile: string): Promise<void> {
  const own = join(stage.ambitHome, 'state/snapshots')
  if (existsSync(own)) return
  const kept = join(stage.product.root, `snapshots-${account(stage.as).uid}-${await imageMark()}`)
  if (existsSync(kept)) return give(stage, kept, own)
  await promisify(execFile)(stage.product.ambit, ['image', 'warm', '--profile', profile], {
    ...identity(stage.as),
    cwd: stage.project,
    env: stage.environment(),
  })
  const aside = `${kept}.${process.pid}`
  cpSync(own, aside, { recursive: true, preserveTimestamps: true })
  for (const path of ['', ...readdirSync(aside, { recursive: true, encoding: 'utf8' })])
    handOver(stage, join(aside, path))
  try {
    renameSync(aside, kept)
  } catch {
    rmSync(aside, { recursive: true, force: true }) // another run was faster
  }
}

/** Of the image and the key that signed it: one that was made again may be the same, under another key. */
async function imageMark(): Promise<string> {
  const { image, paths } = await sharedImage()
  const hash = createHash('sha256').update(image.digest)
  for (const name of readdirSync(keysDir(paths)).toSorted())
    hash.update(readFileSync(join(keysDir(paths), name)))
  return hash.digest('hex').slice(0, 16)
}

/** Files of a hundred MiB: links of them, where they lie on one file system. */
function give(stage: Stage, from: string, to: string): void {
  mkdirSync(to, { mode: 0o700 })
  handOver(stage, to)
  for (const entry of readdirSync(from, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    const place = join(to, path.slice(from.length))
    if (entry.isFile()) linkOrCopy(path, place)
    else mkdirSync(place, { mode: 0o700 })
    handOver(stage, place)
  }
}

function handOver({ as }: Stage, path: string): void {
  const { uid, gid } = account(as)
  if (process.getuid?.() === 0) chownSync(path, uid, gid)
}
