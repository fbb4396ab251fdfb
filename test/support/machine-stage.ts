/** A stage whose sessions run in microVMs: the image, made once for all tests, stands in its state directory. */
import { chownSync, copyFileSync, linkSync, mkdirSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { imagesDir, keysDir } from '../../src/lib/paths.ts'
import { testImage } from './guest.ts'
import { Stage, type StageOptions } from './stage.ts'
import { account, type As } from './users.ts'

export const ISOLATION = {
  runtime: 'microvm',
  limits: 'partly',
  memory: '512MiB',
  processes: 128,
  wallclock: '3m',
}

export async function machineStage(as: As, options: StageOptions = {}): Promise<Stage> {
  const stage = new Stage(as, { ...options, spec: { isolation: ISOLATION, ...options.spec } })
  await placeImage(stage)
  return stage
}

/** Puts the image, and the key that signed it, where the stage's sessions look for them. */
export async function placeImage(stage: Stage): Promise<void> {
  const { paths } = await testImage()
  const own = { ...paths, state: join(stage.ambitHome, 'state') }
  const { uid, gid } = account(stage.as)
  const give = (path: string): void => {
    if (process.getuid?.() === 0) chownSync(path, uid, gid)
  }
  const makeDir = (path: string): void => {
    mkdirSync(path, { mode: 0o700 })
    give(path)
  }
  const to = join(imagesDir(own), 'default')
  for (const dir of [own.state, dirname(to), to, keysDir(own)]) makeDir(dir)
  const from = join(imagesDir(paths), 'default')
  for (const name of readdirSync(from)) linkOrCopy(join(from, name), join(to, name))
  for (const name of readdirSync(keysDir(paths))) {
    const key = join(keysDir(own), name)
    copyFileSync(join(keysDir(paths), name), key)
    give(key)
  }
}

/** The root image has a hundred MiB. */
function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to)
  } catch {
    copyFileSync(from, to)
  }
}
