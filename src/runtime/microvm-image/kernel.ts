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
/** elf(5): offsets 32 e_phoff, 40 e_shoff, 56 e_phnum, 60 e_shnum; in a program header 8 p_offset, 32 p_filesz. */
const PT_LOAD = 1
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
  writeFileSync(to, trimmed(readFileSync(to)))
}

/** Without the zeros of its last segment, a fifth of it, which QEMU fills in, and without a table of sections. */
function trimmed(elf: Buffer): Buffer {
  const headers = Array.from({ length: isElf(elf) ? elf.readUInt16LE(56) : 0 }, (_, index) => 64 + index * 56)
  const loaded = headers.filter((at) => elf.readUInt32LE(at) === PT_LOAD)
  const last = loaded.toSorted((a, b) => offsetOf(elf, a) - offsetOf(elf, b)).at(-1)
  if (last === undefined) throw failed('it holds no ELF file')
  const start = offsetOf(elf, last)
  let end = start + Number(elf.readBigUInt64LE(last + 32))
  while (end > start && elf[end - 1] === 0) end -= 1
  const kernel = Buffer.from(elf.subarray(0, end))
  kernel.writeBigUInt64LE(BigInt(end - start), last + 32)
  kernel.fill(0, 40, 48)
  kernel.fill(0, 60, 64)
  return kernel
}

/** As Linux is linked: for 64 bits, program headers right behind the file's. */
const isElf = (elf: Buffer): boolean =>
  elf.subarray(0, ELF.length).equals(ELF) && elf[4] === 2 && elf.readBigUInt64LE(32) === 64n

const offsetOf = (elf: Buffer, header: number): number => Number(elf.readBigUInt64LE(header + 8))

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
