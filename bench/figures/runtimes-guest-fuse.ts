/**
 * What a view in a guest is to be compared with: a FUSE server of the guest's own, under the same emulation. QEMU with
 * the image's kernel and root, no cell and no view; in it libfuse's passthrough_hp over the guest's memory, and the
 * load program as PID 1.
 */
import { execFileSync } from 'node:child_process'
import { lstatSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { nativeBinary } from '../../src/lib/paths.ts'
import { DIRECTORY, type Entry, packCpio, PROGRAM } from '../../src/runtime/microvm-image/cpio.ts'
import { lookForTool } from '../../src/runtime/tools.ts'
import { debianProgram } from '../cache.ts'
import type { Bench } from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import { placeImage } from '../machine-image.ts'
import { familyOf } from '../memory.ts'
import { buildPassthroughHp } from '../peers/mounts.ts'
import type { Opening } from './runtimes-places.ts'

/** As bench/load/guest.go has them. */
const BROUGHT = 'bench'
const SEEN = '/tmp/seen'

/** The machine's address of this one, in QEMU's own network. */
const HOST = '10.0.2.2'

/** To boot with a copy of `tree`, and as much memory and as many processors as a session's machine has. */
export async function guestWithFuse(
  bench: Bench,
  load: string,
  tree: string,
  server: { readonly port: number; readonly ca: string },
  size: { readonly memory: number; readonly processors: number },
): Promise<Opening> {
  const qemu = lookForTool('qemu-system-x86_64')
  if (!qemu) throw new Error('qemu-system-x86_64 is not installed')
  const image = await placeImage(bench, join(bench.scratch, 'bare-guest'))
  const initramfs = join(dirname(tree), 'guest-fuse.cpio')
  const rg = await debianProgram('rg', 'ripgrep')
  const fuse = await buildPassthroughHp()
  const brought = packCpio([
    directory(BROUGHT),
    file(`${BROUGHT}/load`, load),
    file(`${BROUGHT}/rg`, rg),
    file(`${BROUGHT}/ca.pem`, server.ca),
    file(`${BROUGHT}/passthrough_hp`, fuse),
    directory(`${BROUGHT}/lib`),
    ...libraries(fuse).map((path) => file(`${BROUGHT}/lib/${basename(path)}`, path)),
    directory(`${BROUGHT}/shown`),
    directory(`${BROUGHT}/shown/dir`),
    ...treeOf(tree, `${BROUGHT}/shown/tree`),
  ])
  writeFileSync(initramfs, Buffer.concat([readFileSync(image.initramfs), brought]))
  const clock = execFileSync(nativeBinary('ambit-launch'), ['tsc'], { encoding: 'utf8' }).trim()
  const line = `${image.commandLine} tsc_early_khz=${clock} mitigations=off rdinit=/${BROUGHT}/load`
  const argv = [
    [qemu, '-M', 'microvm,rtc=on,isa-serial=off', '-cpu', 'max,-erms', '-accel', 'tcg,tb-size=17'],
    ['-m', `${size.memory >> 20}M`, '-smp', String(size.processors)],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ['-kernel', image.kernel, '-initrd', initramfs, '-append', line],
    ['-blockdev', `driver=file,filename=${image.root},node-name=root,read-only=on,locking=off`],
    ['-device', 'virtio-blk-device,drive=root', '-device', 'virtio-rng-device'],
    ['-netdev', 'user,id=net', '-device', 'virtio-net-device,netdev=net'],
    ['-device', 'virtio-serial-device', '-chardev', 'stdio,id=line,signal=off'],
    ['-device', 'virtserialport,chardev=line,name=bench'],
  ].flat()
  return async () => {
    const { child, greeting } = await LineProcess.start(bench, argv, { patience: 90_000 })
    if (typeof greeting.error === 'string') throw new Error(greeting.error)
    return {
      agent: child,
      tree: `${SEEN}/tree`,
      dir: `${SEEN}/dir`,
      rg: `/tmp/${BROUGHT}/rg`,
      order: { url: `https://${HOST}:${server.port}`, ca: `/tmp/${BROUGHT}/ca.pem` },
      processes: () => familyOf([child.pid]),
    }
  }
}

const directory = (path: string): Entry => ({ path, mode: DIRECTORY })
const file = (path: string, from: string): Entry => ({ path, mode: PROGRAM, content: readFileSync(from) })

/** Of a program, but those of the C library, which the image has. */
function libraries(program: string): readonly string[] {
  const found = execFileSync('ldd', [program], { encoding: 'utf8' }).matchAll(/=> (\/\S+)/g)
  return [...found].map(([, path]) => path ?? '').filter((path) => !/\/lib(c|m)\.so/.test(path))
}

function treeOf(from: string, to: string): Entry[] {
  return readdirSync(from).reduce(
    (all, name) => {
      const path = join(from, name)
      const isDirectory = lstatSync(path).isDirectory()
      return all.concat(isDirectory ? treeOf(path, `${to}/${name}`) : [file(`${to}/${name}`, path)])
    },
    [directory(to)],
  )
}
