/** Boots the image as a session would, as far as the guest's first word, and ends it. */
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import type { Readable } from 'node:stream'
import { messageOf } from '../../lib/errors.ts'
import { nativeBinary } from '../../lib/paths.ts'
import { printable } from '../../lib/printable.ts'
import type { Accelerator } from '../accelerator.ts'
import type { Image } from '../microvm-image/verify.ts'

/** What is booted. */
export interface Bootable {
  readonly qemu: string
  readonly image: Pick<Image, 'kernel' | 'initramfs' | 'root' | 'commandLine' | 'digest'>
}

/** Null when a guest booted under `uid`, else why not, printable. Whatever it started is gone then. */
export type Boot = (bootable: Bootable, accelerator: Accelerator, uid: number) => Promise<string | null>

/** Milliseconds. With working KVM a guest speaks within one second. */
const PATIENCE = 8000

/** The guest's first word on its control port (docs/architecture.md, "Inside a microVM"). */
const HELLO = '"hello"'

/** The kernel and its devices as in `ambit-launch` (vm/machine.rs), without files, network and streams. */
export async function bootsGuest(
  bootable: Bootable,
  accelerator: Accelerator,
  uid: number,
  patience = PATIENCE,
): Promise<string | null> {
  const { image, qemu } = bootable
  // By descriptor: QEMU runs as the session's user, who may not find his way to the files.
  const files = [image.kernel, image.initramfs, image.root].map((path) => openSync(path, 'r'))
  const own = process.getuid?.() === 0 && uid !== 0 ? { uid, gid: uid } : {}
  try {
    const child = spawn(qemu, commandLine(bootable, accelerator), {
      ...own,
      stdio: ['ignore', 'ignore', 'pipe', 'pipe', ...files],
      env: {},
      cwd: '/',
    })
    return await new Promise((resolve) => {
      let said = ''
      let heard = ''
      const end = (why: string | null): void => {
        clearTimeout(timer)
        child.kill('SIGKILL')
        for (const stream of child.stdio) stream?.destroy()
        resolve(why)
      }
      const limit = `no word from it within ${patience / 1000} s`
      const timer = setTimeout(() => end(limit), patience)
      const control = child.stdio[3] as Readable
      child.stderr?.on('data', (chunk: Buffer) => (said = (said + chunk.toString('latin1')).slice(-2000)))
      control.on('error', () => undefined)
      control.on('data', (chunk: Buffer) => {
        heard = (heard + chunk.toString('latin1')).slice(-2000)
        if (heard.includes(HELLO)) end(null)
      })
      child.once('error', (error) => end(printable(messageOf(error), 200)))
      child.once('exit', () => setTimeout(() => end(lastLine(said) ?? 'QEMU ended'), 20))
    })
  } finally {
    for (const fd of files) closeSync(fd)
  }
}

const lastLine = (text: string): string | null => {
  const line = text.trim().split('\n').at(-1)
  return line ? printable(line, 200) : null
}

function commandLine({ image }: Bootable, accelerator: Accelerator): string[] {
  const [control, kernel, initramfs, root] = [3, 4, 5, 6]
  const file = (fd: number | undefined): string => `/proc/self/fd/${fd}`
  return [
    ['-M', 'microvm,rtc=on,isa-serial=off', '-cpu', 'max', '-accel', accelerator, '-m', '256M'],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ['-kernel', file(kernel), '-initrd', file(initramfs), '-append', `${image.commandLine} ${clockRate()}`],
    ['-blockdev', `driver=file,filename=${file(root)},node-name=root,read-only=on,locking=off`],
    ['-device', 'virtio-blk-device,drive=root', '-device', 'virtio-rng-device'],
    ['-device', 'virtio-serial-device', '-chardev', `socket,id=control,fd=${control}`],
    ['-device', 'virtserialport,chardev=control,name=ambit.control'],
    silentPort('io'),
    silentPort('view'),
  ].flat()
}

/** The guest waits for its ports, and says its first word without their answer. */
const silentPort = (name: string): string[] => [
  '-chardev',
  `null,id=${name}`,
  '-device',
  `virtserialport,chardev=${name},name=ambit.${name}`,
]

/** The microvm machine has nothing to measure its time stamp counter by. */
const clockRate = (): string =>
  `tsc_early_khz=${execFileSync(nativeBinary('ambit-launch'), ['tsc'], { encoding: 'utf8' }).trim()}`
