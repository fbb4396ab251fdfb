/** Where a kept GET's processor time goes. */
import { messageOf } from '../../src/lib/errors.ts'
import { type Bench, short } from '../figure.ts'
import { type Sample, sampled, shares } from '../perf.ts'
import { commandLine } from '../product.ts'

/** One line for the page: of the processors, and of the session host `host`, which is the gate's process. */
export async function profileOf(bench: Bench, host: number, load: () => Promise<number>): Promise<string> {
  const title =
    'Profile of a kept GET in this run (`perf`, all processors, stacks of the kernel and of programs)'
  try {
    let rate = 0
    const samples = await sampled(bench, async () => {
      rate = await load()
    })
    const names = new Map([...new Set(samples.map(({ pid }) => pid))].map((pid) => [pid, nameOf(pid, host)]))
    const whole = shares(samples, ({ pid }) => names.get(pid) ?? '')
    const own = samples.filter(({ pid }) => pid === host)
    if (own.length === 0) throw new Error('perf did not see the session host')
    return (
      `${title}, ${short(rate)} requests/s: of the processors ${list(whole)}. ` +
      `Of the session host’s time ${list(shares(own, groupOf))}.`
    )
  } catch (error) {
    return `${title}: not measured: ${messageOf(error)}`
  }
}

const list = (parts: readonly (readonly [string, number])[]): string =>
  parts.map(([name, percent]) => `${name} ${percent < 1 ? 'under 1' : percent.toFixed(0)} %`).join(', ')

function nameOf(pid: number, host: number): string {
  if (pid === 0) return 'idle'
  if (pid === host) return 'session host'
  const command = commandLine(pid)
  if (command.includes('ambitd')) return '`ambitd`'
  return / (?:agent|upstream .*)$/.test(command) ? 'client and upstream' : 'all else'
}

const KERNEL: readonly (readonly [RegExp, string])[] = [
  [/fsync|fdatasync/, 'syncs'],
  [
    /sys_(?:sendto|sendmsg|recvfrom|recvmsg|connect|accept4?)$|sock_(?:read|write)_iter|inet_|tcp_/,
    'sockets',
  ],
  [/epoll|futex|eventfd/, 'waiting and waking'],
  [/sys_p?(?:write|writev|write64|writev2)$|ext4_/, 'writes of records'],
]

const NODE: readonly (readonly [RegExp, string])[] = [
  [/Json|JSON/, 'JSON'],
  [/llhttp/, 'llhttp'],
  [/Scaveng|Mark[Cc]ompact|Marking|Sweep|GarbageCollect|Evacuat/, 'garbage'],
  [/^Builtins_/, 'V8’s builtins'],
]

/** Innermost frame first: what a sample of the session host was at. */
export function groupOf({ stack }: Sample): string {
  const [inner] = stack
  if (!inner) return 'unknown'
  const { symbol, object } = inner
  if (object.startsWith('[kernel') || /^\[\w+\]$/.test(object)) {
    const found = KERNEL.find(([pattern]) => stack.some((frame) => pattern.test(frame.symbol)))
    return `kernel: ${found?.[1] ?? 'the rest'}`
  }
  if (object.endsWith('.node')) return groupOfAddon(symbol)
  if (object.endsWith('/node')) return NODE.find(([pattern]) => pattern.test(symbol))?.[1] ?? 'Node and V8'
  if (/perf-\d+\.map|^\/\/anon|\[anon|\[JIT\]|^\[unknown\]/.test(object)) return 'compiled JavaScript'
  return 'libc'
}

function groupOfAddon(symbol: string): string {
  if (/(?:^|<|_)ring(?:::|_)|gcm|aes|ghash|chacha|poly1305|sha256|sha512|x25519|ed25519|p256/i.test(symbol))
    return 'crypto (addon)'
  if (/record_queue|crc32|serde_json/.test(symbol)) return 'records (addon)'
  return 'TLS and bytes (addon)'
}
