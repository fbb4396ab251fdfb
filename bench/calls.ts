/** System calls of a process, and the FUSE requests that it reads, counted by strace. */
import { spawn } from 'node:child_process'
import { createReadStream, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Bench } from './figure.ts'

export interface Calls {
  /** By name. */
  readonly calls: ReadonlyMap<string, number>
  /** By the name of their opcode. */
  readonly requests: ReadonlyMap<string, number>
  /** Reads that would have had to wait. */
  readonly empty: number
}

/** What `pid`, its threads and their children do during `work`. @throws Error where strace is missing or not allowed. */
export async function traced(bench: Bench, pid: number, work: () => Promise<unknown>): Promise<Calls> {
  const file = join(bench.scratch, `strace-${pid}`)
  // Eight bytes of each buffer: a request begins with its length and its opcode.
  const child = spawn(
    'strace',
    ['-f', '-xx', '-s', '8', '-e', 'signal=none', '-o', file, '-p', String(pid)],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  )
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()))
  await new Promise<void>((resolve, reject) => {
    let said = ''
    child.stderr.on('data', (text: Buffer) => {
      said += text.toString()
      if (/ attached/.test(said)) resolve()
    })
    child.once('error', () => reject(new Error('strace is not here')))
    child.once('close', () => reject(new Error(said.trim().split('\n').at(-1) || 'strace ended')))
  })
  try {
    await work()
  } finally {
    child.kill('SIGINT')
    await ended
  }
  try {
    return await counted(createInterface(createReadStream(file)))
  } finally {
    rmSync(file)
  }
}

const LINE = /^\d+ +(?:(\w+)\(|<\.\.\. (\w+) resumed>)/
const REQUEST = /"((?:\\x[0-9a-f]{2}){8})"\.\.\., \d+\) += (\d+)$/
const EMPTY = / = -1 EAGAIN /

/** Counts of what strace wrote. A call that another thread interrupts has two lines. */
export async function counted(lines: AsyncIterable<string> | Iterable<string>): Promise<Calls> {
  const calls = new Map<string, number>()
  const requests = new Map<string, number>()
  let empty = 0
  const add = (to: Map<string, number>, key: string): void => void to.set(key, (to.get(key) ?? 0) + 1)
  for await (const line of lines) {
    const [, begun, resumed] = LINE.exec(line) ?? []
    if (begun) add(calls, begun)
    if ((begun ?? resumed) !== 'read') continue
    if (EMPTY.test(line)) empty++
    const [, bytes = '', length] = REQUEST.exec(line) ?? []
    const head = Buffer.from(bytes.replaceAll('\\x', ''), 'hex')
    if (head.length === 8 && head.readUInt32LE(0) === Number(length)) {
      const opcode = head.readUInt32LE(4)
      add(requests, OPCODES[opcode] ?? `opcode ${opcode}`)
    }
  }
  return { calls, requests, empty }
}

/** linux/fuse.h */
const OPCODES: Readonly<Record<number, string>> = {
  1: 'LOOKUP',
  2: 'FORGET',
  3: 'GETATTR',
  4: 'SETATTR',
  5: 'READLINK',
  8: 'MKNOD',
  9: 'MKDIR',
  10: 'UNLINK',
  11: 'RMDIR',
  12: 'RENAME',
  14: 'OPEN',
  15: 'READ',
  16: 'WRITE',
  18: 'RELEASE',
  20: 'FSYNC',
  22: 'GETXATTR',
  25: 'FLUSH',
  27: 'OPENDIR',
  28: 'READDIR',
  29: 'RELEASEDIR',
  34: 'ACCESS',
  35: 'CREATE',
  36: 'INTERRUPT',
  42: 'BATCH_FORGET',
  44: 'READDIRPLUS',
}
