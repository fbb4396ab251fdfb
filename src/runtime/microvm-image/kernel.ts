/**
 * The kernel as it lies in memory, out of the compressed file of the package: QEMU starts an ELF file by its PVH entry.
 * Where every instruction is emulated, a kernel that unpacks itself takes half a second longer.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { AmbitError } from '../../lib/errors.ts'
import { findTool } from '../tools.ts'
import { runTool } from './tool.ts'

/** Documentation/arch/x86/boot.rst: offsets in a bzImage. */
const SECTORS = 0x1f1
const MAGIC = 0x202
const PAYLOAD = 0x248
const ELF = Buffer.from('\x7fELF', 'latin1')

/** The forms that Debian's kernels have had: first bytes, the tool, its package. */
const FORMS = [
  ['02214c18', 'lz4', 'lz4'],
  ['28b52ffd', 'zstd', 'zstd'],
  ['fd377a58', 'xz', 'xz-utils'],
  ['1f8b', 'gzip', 'gzip'],
] as const

/** Writes the ELF file that `image`, a bzImage, holds to `to`. Throws ERR_RUNTIME_FAILED or ERR_RUNTIME_MISSING. */
export async function unpackKernel(image: Buffer, to: string): Promise<void> {
  const payload = payloadOf(image)
  const form = FORMS.find(([magic]) => payload.toString('hex', 0, 4).startsWith(magic))
  if (!form) throw failed('it is compressed in an unknown way')
  const [, tool, name] = form
  const packed = `${to}.packed`
  writeFileSync(packed, payload)
  const script = 'exec "$1" -dc < "$2" > "$3"'
  await runTool('/bin/sh', ['-euc', script, 'unpack', findTool(tool, name), packed, to])
  rmSync(packed)
  if (!readFileSync(to).subarray(0, ELF.length).equals(ELF)) throw failed('it holds no ELF file')
}

function payloadOf(image: Buffer): Buffer {
  if (image.toString('latin1', MAGIC, MAGIC + 4) !== 'HdrS') throw failed('it is no bzImage')
  const start = (image.readUInt8(SECTORS) + 1) * 512 + image.readUInt32LE(PAYLOAD)
  // Its last four bytes are its length when unpacked, which is no part of the stream.
  return image.subarray(start, start + image.readUInt32LE(PAYLOAD + 4) - 4)
}

const failed = (why: string): AmbitError =>
  new AmbitError(
    'ERR_RUNTIME_FAILED',
    'unpacking the guest kernel',
    why,
    'ambit image build takes a kernel of Debian’s',
  )
