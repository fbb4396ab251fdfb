import { statSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { AmbitError, messageOf } from '../../lib/errors.ts'
import { imagesDir, type Paths } from '../../lib/paths.ts'
import { chooseAccelerator, forgetAccelerator, thisHost } from '../accelerator.ts'
import { Digests } from '../microvm-image/digests.ts'
import { MANIFEST } from '../microvm-image/manifest.ts'
import { type Image, verifyImage } from '../microvm-image/verify.ts'
import { sessionOwner } from '../owner.ts'
import { installHint, lookForTool } from '../tools.ts'
import { lacks, type Probe, tryOpen, tryRun, works } from './probe.ts'

const QEMU = 'qemu-system-x86_64'

/** Whether QEMU for the machines of microVMs runs; no shipped profile needs it. */
export async function qemu(): Promise<Probe> {
  const hint = installHint('qemu-system-x86')
  if (process.arch !== 'x64')
    return lacks('QEMU', 'the microvm machine is x86-64 only', 'choose the runtime container', false)
  const path = lookForTool(QEMU)
  if (!path) return lacks('QEMU', `${QEMU} is not installed`, hint, false)
  const run = await tryRun(path, ['--version'])
  return run.ok
    ? works('QEMU', `${path}: ${run.out.split('\n')[0]}`, false)
    : lacks('QEMU', run.why, hint, false)
}

/** A machine's cable is a tap in the session's network namespace. */
export async function tap(): Promise<Probe> {
  const device = '/dev/net/tun'
  const error = await tryOpen(device)
  if (error === null) return works('tap', `${device} opens`, false)
  const remedy =
    error === 'ENOENT'
      ? 'sudo modprobe tun; in a container: --device /dev/net/tun'
      : `sudo chmod 666 ${device}`
  return lacks('tap', `${device} does not open: ${error}`, remedy, false)
}

/** The TPM of a machine is a program. */
export async function swtpm(): Promise<Probe> {
  const path = lookForTool('swtpm')
  if (!path) return lacks('swtpm', 'swtpm is not installed', installHint('swtpm'), false)
  const run = await tryRun(path, ['--version'])
  return run.ok
    ? works('swtpm', `${path}: ${run.out.split('\n')[0]}`, false)
    : lacks('swtpm', run.why, installHint('swtpm'), false)
}

/** Its kernel and programs are Debian's, which corrects them about as often. */
const OLD_DAYS = 30
const DAY_MS = 24 * 3600 * 1000

/** The image that machines start from, and what booted with KVM: the one is tried with the other. */
export async function imageAndAccelerator(paths: Paths): Promise<Probe[]> {
  const dir = join(imagesDir(paths), 'default')
  const verified = await verifyImage(dir, paths, Digests.anew(paths)).catch((error: unknown) => error)
  if (verified instanceof Error) {
    const why = verified instanceof AmbitError ? verified.why : messageOf(verified)
    const image = lacks('image', why, 'run: ambit image build', false)
    return [image, untried('no image to boot', 'run: ambit image build')]
  }
  const image = verified as Image
  const made = statSync(join(dir, MANIFEST)).mtimeMs
  const age = Math.floor((Date.now() - made) / DAY_MS)
  const detail = `verified, ${age} days old: ${image.digest.slice(0, 16)}…, ${image.manifest.packages[0]}`
  const found: Probe =
    age < OLD_DAYS
      ? works('image', detail, false)
      : {
          name: 'image',
          state: 'partly',
          detail,
          remedy: 'for corrections since: ambit image build',
          needed: false,
        }
  return [found, await accelerator(image, paths)]
}

const untried = (why: string, remedy: string): Probe => ({
  name: 'accelerator',
  state: 'partly',
  detail: `not tried: ${why}`,
  remedy,
  needed: false,
})

/** Asked anew, not looked up: whoever runs doctor has just changed something. */
async function accelerator(image: Image, paths: Paths): Promise<Probe> {
  const path = lookForTool(QEMU)
  if (!path || process.arch !== 'x64') return untried(`${QEMU} is not here`, installHint('qemu-system-x86'))
  const uid = sessionOwner({ uid: userInfo().uid, gid: userInfo().gid }, 'doctor', '/').host.uid
  forgetAccelerator(paths)
  const { accelerator, why } = await chooseAccelerator({ qemu: path, image }, paths, thisHost(uid))
  if (accelerator === 'kvm') return works('accelerator', `KVM: ${why}`, false)
  const remedy = /EACCES|Permission denied/.test(why)
    ? uid === userInfo().uid
      ? 'sudo usermod -aG kvm "$USER", then log in again'
      : "root's sessions have a uid of their own: chmod 666 /dev/kvm"
    : 'switch (nested) virtualisation on, in the firmware or for this virtual machine'
  return {
    name: 'accelerator',
    state: 'partly',
    detail: `TCG, many times slower; not KVM: ${why}`,
    remedy,
    needed: false,
  }
}
