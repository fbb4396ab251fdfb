/** The image of microVMs, made once for all tests, put where a stage's sessions look for it. */
import {
  chmodSync,
  chownSync,
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { imagesDir, keysDir } from '../../src/lib/paths.ts'
import { testImage } from './guest.ts'
import { account, type As } from './users.ts'

let made: ReturnType<typeof testImage> | undefined

/** Looked at once in a process: it is large, and nobody changes it. */
export const sharedImage = (): ReturnType<typeof testImage> => (made ??= testImage())

/** Puts the image, and the key that signed it, into the state directory of a stage. */
export async function placeImage(stage: { readonly as: As; readonly ambitHome: string }): Promise<void> {
  const { paths } = await sharedImage()
  const own = { ...paths, state: join(stage.ambitHome, 'state') }
  const { uid, gid } = account(stage.as)
  const give = (path: string): void => {
    if (process.getuid?.() === 0) chownSync(path, uid, gid)
  }
  const makeDir = (path: string): void => {
    if (existsSync(path)) return
    mkdirSync(path, { mode: 0o700 })
    give(path)
  }
  const to = join(imagesDir(own), 'default')
  if (existsSync(to)) return
  for (const dir of [own.state, dirname(to), to, keysDir(own)]) makeDir(dir)
  const from = (ownCopy ??= copyOf(join(imagesDir(paths), 'default')))
  for (const name of readdirSync(from)) linkOrCopy(join(from, name), join(to, name))
  for (const name of readdirSync(keysDir(paths))) {
    const key = join(keysDir(own), name)
    copyFileSync(join(keysDir(paths), name), key)
    give(key)
  }
}

let ownCopy: string | undefined

/**
 * This process' own, until its end: a link changes its file's change time, and a machine that another process is just
 * starting would find that the image has changed.
 */
function copyOf(image: string): string {
  const copy = mkdtempSync(join(tmpdir(), 'ambit-test-image-'))
  process.once('exit', () => rmSync(copy, { recursive: true, force: true }))
  chmodSync(copy, 0o755)
  for (const name of readdirSync(image))
    copyFileSync(join(image, name), join(copy, name), constants.COPYFILE_FICLONE)
  return copy
}

/** For files of a hundred MiB. */
export function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to)
  } catch {
    copyFileSync(from, to)
  }
}
