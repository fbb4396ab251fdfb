import { closeSync, existsSync, openSync, readSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

/** What the dynamic loader needs of a program or library: names, and where its file says to look. */
interface Dynamic {
  readonly needed: readonly string[]
  /** DT_RUNPATH or DT_RPATH, `$ORIGIN` resolved. */
  readonly paths: readonly string[]
}

/** Libraries that one program may bring along, places where it says to look, and looks altogether. */
const MOST_LIBRARIES = 200
const MOST_PLACES = 64
const MOST_LOOKS = 20_000
/** Longer than any path. */
const MOST_TEXT = 4096

/**
 * Libraries that `program` and its libraries find by their own search paths, outside the system's directories.
 * Reads the files; `ldd` would run the program's interpreter, which its author chose.
 */
export function ownLibraries(program: string): string[] {
  const found = new Set<string>()
  const queue = [program]
  let looks = 0
  for (let file = queue.pop(); file && found.size < MOST_LIBRARIES; file = queue.pop()) {
    const { needed, paths } = readDynamic(file)
    for (const name of needed) {
      const library = paths
        .map((path) => join(path, name))
        .find((path) => looks++ < MOST_LOOKS && existsSync(path))
      if (library === undefined || found.has(library)) continue
      found.add(library)
      queue.push(library)
    }
  }
  return [...found]
}

const PT_LOAD = 1
const PT_DYNAMIC = 2
const [DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH] = [1, 5, 10, 15, 29] as const

/** The dynamic section of a 64-bit little-endian ELF file; empty for any other or a malformed one. */
export function readDynamic(path: string): Dynamic {
  const fd = openSync(path, 'r')
  try {
    return parseDynamic((offset, length) => pread(fd, offset, length), dirname(path))
  } catch (error) {
    // Offsets that lead out of the file: the loader would refuse it as well.
    if (error instanceof RangeError) return { needed: [], paths: [] }
    throw error
  } finally {
    closeSync(fd)
  }
}

type Read = (offset: number, length: number) => Buffer

function parseDynamic(read: Read, origin: string): Dynamic {
  const head = read(0, 64)
  if (head.length < 64 || head.readUInt32BE(0) !== 0x7f454c46 || head[4] !== 2 || head[5] !== 1)
    return { needed: [], paths: [] }
  const segments = segmentsOf(
    read,
    Number(head.readBigUInt64LE(32)),
    head.readUInt16LE(54),
    head.readUInt16LE(56),
  )
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC)
  if (!dynamic) return { needed: [], paths: [] }
  const entries = entriesOf(read(dynamic.offset, Math.min(dynamic.size, 1 << 16)))
  const value = (tag: number): number => entries.find((entry) => entry.tag === tag)?.value ?? 0
  const strings = read(fileOffset(segments, value(DT_STRTAB)), Math.min(value(DT_STRSZ), 1 << 20))
  const text = (at: number): string =>
    strings.toString('utf8', at, Math.min(at + MOST_TEXT, Math.max(at, strings.indexOf(0, at))))
  const all = (tag: number): string[] =>
    entries.filter((entry) => entry.tag === tag).map((entry) => text(entry.value))
  const searched = all(DT_RUNPATH).length > 0 ? all(DT_RUNPATH) : all(DT_RPATH)
  const paths = searched
    .slice(0, MOST_PLACES)
    .flatMap((list) => list.split(':', MOST_PLACES))
    .slice(0, MOST_PLACES)
    .map((entry) => normalize(entry.replace(/\$ORIGIN|\$\{ORIGIN\}/g, origin)))
  return {
    needed: all(DT_NEEDED)
      .filter((name) => !name.includes('/'))
      .slice(0, MOST_LIBRARIES),
    paths: paths.filter((entry) => entry.startsWith('/')),
  }
}

interface Segment {
  readonly type: number
  readonly offset: number
  readonly address: number
  readonly size: number
}

/** Bytes of a program header. */
const ENTRY = 56

function segmentsOf(read: Read, offset: number, entrySize: number, count: number): Segment[] {
  // As the kernel has it (fs/binfmt_elf.c): entries of their one size, 64 KiB of them at most.
  if (entrySize !== ENTRY || ENTRY * count > 1 << 16) return []
  const table = read(offset, ENTRY * count)
  return Array.from({ length: count }, (_, index) => {
    const at = index * ENTRY
    const field = (place: number): number => Number(table.readBigUInt64LE(at + place))
    return { type: table.readUInt32LE(at), offset: field(8), address: field(16), size: field(32) }
  })
}

function entriesOf(table: Buffer): { tag: number; value: number }[] {
  return Array.from({ length: Math.floor(table.length / 16) }, (_, index) => ({
    tag: Number(table.readBigInt64LE(index * 16)),
    value: Number(table.readBigUInt64LE(index * 16 + 8)),
  }))
}

function fileOffset(segments: readonly Segment[], address: number): number {
  const segment = segments.find(
    ({ type, address: start, size }) => type === PT_LOAD && address >= start && address < start + size,
  )
  return segment ? address - segment.address + segment.offset : 0
}

function pread(fd: number, offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length)
  return buffer.subarray(0, readSync(fd, buffer, 0, length, offset))
}
