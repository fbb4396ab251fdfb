import { readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { imagesDir, keysDir } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import { buildImage } from '../runtime/microvm-image/build.ts'
import { formatPublicKey, loadOrMakeImageKey } from '../runtime/microvm-image/minisign.ts'
import { Digests } from '../runtime/microvm-image/digests.ts'
import { verifyImage } from '../runtime/microvm-image/verify.ts'
import { warmImage } from '../runtime/microvm-image/warm.ts'
import { isolationIn } from '../profile/compile.ts'
import { loadProfile } from '../profile/load.ts'
import { type Command, type Context, text, usageError } from './command.ts'

/** What a session starts unless told otherwise. */
const DEFAULT = 'default'
/** Whose shape of machine is kept warm unless told otherwise: that of `ambit run`. */
const PROFILE = 'writer'

export const command: Command = {
  name: 'image',
  usage: 'image build [--out DIR] | warm [--profile P] | ls | verify [DIR] | key',
  summary: 'build and check the image of microVMs',
  details: `
build   makes kernel, initramfs and a read-only root from Debian's packages, by the mirror of this machine's own apt.
        It needs no root: packages are unpacked, not installed. Takes a minute or two; what was fetched is kept.
        Ends with: ambit image warm.
warm    boots a machine of the size that the profile asks for and keeps what it has become: sessions of that size then
        start from it, in a second or two without KVM. It lies in the state directory, signed; nobody else's sessions start from it.
        To be made anew after another build, or an update of QEMU or Ambit.
ls      lists images
verify  checks the signature and every part; each start does the same for what has changed
key     prints the public key in minisign's form: minisign -V -p KEY -m manifest.json
exit status: 0 done, 125 the image is not what was signed.
`,
  options: {
    profile: {
      type: 'string',
      short: 'p',
      value: 'P',
      help: `whose memory and processors (default: ${PROFILE})`,
    },
    out: { type: 'string', value: 'DIR', help: 'where the image goes (default: in the state directory)' },
  },
  run: async (args, context) => {
    const [verb, dir, ...more] = args.words
    if (more.length > 0) throw usageError(command, 'too many words')
    const given = typeof args.flags.out === 'string' ? args.flags.out : dir
    const place = given === undefined ? join(imagesDir(context.paths), DEFAULT) : resolve(context.cwd, given)
    if (verb === 'build') return build(place, context)
    if (verb === 'warm') return warm(text(args, 'profile') ?? PROFILE, context)
    if (verb === 'verify') return verify(place, context)
    if (verb === 'ls') return list(context)
    if (verb !== 'key') throw usageError(command, 'say build, warm, ls, verify or key')
    context.out(formatPublicKey(loadOrMakeImageKey(keysDir(context.paths))))
    return 0
  },
}

async function build(out: string, context: Context): Promise<number> {
  const { paths } = context
  const cache = join(imagesDir(paths), '.cache')
  const say = (line: string): void => context.err(`ambit: image: ${line}`)
  await buildImage({ out, cache, paths, say })
  await verify(out, context)
  if (out !== join(imagesDir(paths), DEFAULT)) return 0
  say(`booting it once, for sessions of ${PROFILE} to go on from`)
  // Sessions start without one, too.
  await warm(PROFILE, context).catch((error: Error) => say(`no snapshot: ${printable(error.message)}`))
  return 0
}

async function warm(profile: string, context: Context): Promise<number> {
  const { paths } = context
  const isolation = isolationIn(loadProfile(profile, paths))
  const { dir, size } = await warmImage(paths, isolation)
  context.out(
    `${printable(dir)}  ${Math.round(size / (1 << 20))} MiB, for sessions like those of ${printable(profile)}`,
  )
  return 0
}

async function verify(dir: string, context: Context): Promise<number> {
  const { digest, manifest } = await verifyImage(dir, context.paths, Digests.anew(context.paths))
  const size = Math.round((manifest.kernel.size + manifest.initramfs.size + manifest.root.size) / (1 << 20))
  context.out(
    `${digest}  ${printable(dir)}  ${size} MiB, ${manifest.packages.length} packages, ${manifest.packages[0]}`,
  )
  return 0
}

async function list(context: Context): Promise<number> {
  const dir = imagesDir(context.paths)
  const names = namesIn(dir)
  if (names.length === 0) context.err('ambit: there is no image; ambit image build makes one')
  for (const name of names) {
    await verify(join(dir, name), context).catch((error: Error) =>
      context.out(`✗ ${printable(error.message)}`),
    )
  }
  return 0
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir).filter((name) => !name.startsWith('.') && !name.endsWith('.new'))
  } catch {
    return []
  }
}
