/** The image of microVMs with root in it: a program of the test's is its /init and starts the guest agent beside itself. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { imagesDir, keysDir } from '../../src/lib/paths.ts'
import { PROGRAM, packCpio } from '../../src/runtime/microvm-image/cpio.ts'
import {
  formatManifest,
  MANIFEST,
  parseManifest,
  SIGNATURE,
} from '../../src/runtime/microvm-image/manifest.ts'
import { loadImageKey, signContent } from '../../src/runtime/microvm-image/minisign.ts'
import { testImage } from './guest.ts'
import { placeImage } from './place-image.ts'
import { account, type As } from './users.ts'

const root = join(import.meta.dirname, '../..')

/** `initramfs` with `probe` (a C source beside this file) as its /init, which starts /guest. */
export function withRootBeside(initramfs: string, probe: string): Buffer {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-init-'))
  try {
    const program = join(dir, 'init')
    const source = join(import.meta.dirname, 'probe', probe)
    const flags = ['-static', '-O1', '-D_GNU_SOURCE', '-Wall', '-Werror']
    execFileSync('cc', [...flags, '-o', program, source], { stdio: ['ignore', 'ignore', 'pipe'] })
    const more = packCpio([
      { path: 'guest', mode: PROGRAM, content: readFileSync(join(root, '.build/bin/ambit-guest')) },
      { path: 'init', mode: PROGRAM, content: readFileSync(program) },
    ])
    return Buffer.concat([readFileSync(initramfs), more])
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** Gives a stage such an image as its own, signed as the real one is: whoever builds images is trusted, its root is not. */
export async function placeHostileImage(
  stage: { readonly as: As; readonly ambitHome: string },
  probe: string,
): Promise<void> {
  await placeImage(stage)
  const { image, paths } = await testImage()
  const key = loadImageKey(keysDir(paths))
  if (!key) throw new Error('the test image has no key')
  const dir = join(imagesDir({ ...paths, state: join(stage.ambitHome, 'state') }), 'default')
  const manifest = parseManifest(readFileSync(join(dir, MANIFEST)))
  const initramfs = withRootBeside(image.initramfs, probe)
  const sha256 = createHash('sha256').update(initramfs).digest('hex')
  const other = { ...manifest, initramfs: { ...manifest.initramfs, size: initramfs.length, sha256 } }
  const bytes = Buffer.from(formatManifest(other))
  const { uid, gid } = account(stage.as)
  for (const [name, content] of [
    [manifest.initramfs.name, initramfs],
    [MANIFEST, bytes],
    [SIGNATURE, signContent(bytes, key, 'an image with root in it')],
  ] as const) {
    // A link to what other tests use.
    rmSync(join(dir, name))
    writeFileSync(join(dir, name), content)
    if (process.getuid?.() === 0) chownSync(join(dir, name), uid, gid)
  }
}
