/**
 * System calls that are refused inside, each with what the kernel says outside to who may ask: a refusal by the filter
 * is told from the kernel's own. The numbers are x86-64's.
 */
import assert from 'node:assert/strict'
import type { As } from './users.ts'
import type { Step, Steps } from './stage.ts'

export interface Call {
  /** Number and arguments of the system call. */
  readonly call: readonly (number | string)[]
  /** What the kernel says when it is asked. */
  readonly asked: RegExp
  /**
   * Whose capability it takes before the kernel looks: root's of any user namespace, which an ordinary user makes for the
   * control, or the machine's. The control of the last is root's alone.
   */
  readonly takes?: 'namespace' | 'machine'
}

const unprivileged = (asked: RegExp, ...call: (number | string)[]): Call => ({ call, asked })
const ofNamespace = (asked: RegExp, ...call: (number | string)[]): Call => ({
  call,
  asked,
  takes: 'namespace',
})
const ofMachine = (asked: RegExp, ...call: (number | string)[]): Call => ({ call, asked, takes: 'machine' })

export const MINUS = '0xffffffffffffffff'

export const MOUNTING: Readonly<Record<string, Call>> = {
  setns: unprivileged(/^EBADF$/, 308, MINUS, 0),
  mount: unprivileged(/^EFAULT$/, 165, 0, 0, 0, 0, 0),
  umount2: unprivileged(/^EFAULT$/, 166, 0, 0),
  pivot_root: ofNamespace(/^EFAULT$/, 155, 0, 0),
  chroot: unprivileged(/^EFAULT$/, 161, 0),
}

export const NEW_MOUNTING: Readonly<Record<string, Call>> = {
  open_tree: unprivileged(/^EFAULT$/, 428, MINUS, 0, 0),
  move_mount: ofNamespace(/^E(FAULT|BADF|INVAL)$/, 429, MINUS, 0, MINUS, 0, 0),
  fsopen: ofNamespace(/^EFAULT$/, 430, 0, 0),
  fsconfig: unprivileged(/^E(INVAL|BADF)$/, 431, MINUS, 0, 0, 0, 0),
  fsmount: ofNamespace(/^E(BADF|INVAL)$/, 432, MINUS, 0, 0),
  fspick: ofNamespace(/^EFAULT$/, 433, MINUS, 0, 0),
  mount_setattr: unprivileged(/^EINVAL$/, 442, MINUS, 0, 0, 0, 0),
}

export const KEYS: Readonly<Record<string, Call>> = {
  add_key: unprivileged(/^EFAULT$/, 248, 0, 0, 0, 0, 0),
  request_key: unprivileged(/^EFAULT$/, 249, 0, 0, 0, 0),
  keyctl: unprivileged(/^(ok.*|ENOKEY)$/, 250, 0, '0xfffffffffffffffd', 0),
}

export const KERNEL: Readonly<Record<string, Call>> = {
  userfaultfd: ofMachine(/^EINVAL$/, 323, 0xdead),
  perf_event_open: unprivileged(/^E(FAULT|ACCES|INVAL)$/, 298, 0, 0, 0, 0, 0),
  bpf: ofMachine(/^E(INVAL|FAULT)$/, 321, 0, 0, 0),
  // Flags that no architecture has: with valid ones and no segment the call would unload.
  kexec_load: ofMachine(/^E(INVAL|NOSYS|PERM|ADDRNOTAVAIL)$/, 246, 0, 0, 0, 0x0f00),
  init_module: ofMachine(/^E(NOEXEC|FAULT|NOSYS)$/, 175, 0, 0, 0),
  finit_module: ofMachine(/^E(BADF|INVAL|NOSYS)$/, 313, MINUS, 0, 0),
  delete_module: ofMachine(/^E(FAULT|NOENT|NOSYS)$/, 176, 0, 0),
  kcmp: unprivileged(/^ESRCH$/, 312, '0x7ffffffe', '0x7ffffffe', 0, 0, 0),
  acct: ofMachine(/^EFAULT$/, 163, 1),
  quotactl: unprivileged(/^E(INVAL|NODEV|FAULT|NOTBLK)$/, 179, MINUS, 0, 0, 0),
  syslog: ofMachine(/^EINVAL$/, 103, 99, 0, 0),
  personality: unprivileged(/^ok/, 135, 0x0400000),
  open_by_handle_at: ofMachine(/^E(FAULT|BADF)$/, 304, MINUS, 0, 0),
}

export const CALLS = { ...MOUNTING, ...NEW_MOUNTING, ...KEYS, ...KERNEL }

/** One call of the probe. */
export const probe = (name: string, ...args: (number | string)[]): Step => ({
  name,
  op: 'probe',
  args: (args.length > 0 ? args : [name]).map(String),
})

const named = (name: string): string => `${name}, as root of a user namespace`

/** The same by an ordinary user who made a user namespace and is root of it, with mounts and network of its own. */
export const asNamespaceRoot = (name: string, ...argv: readonly string[]): Step => ({
  name: named(name),
  op: 'exec',
  argv: ['unshare', '--user', '--map-root-user', '--mount', '--net', ...argv],
})

/** What a user gets as root of a namespace, where that was tried; else plainly. */
export const mostAllowed = (outside: Steps, name: string, as: As, takes: Call['takes']): string =>
  as === 'user' && takes === 'namespace'
    ? String(outside.result(named(name)).value.stdout).trim()
    : outside.result(name).value

/** For the control: all that a namespace's root is asked about. */
export const asNamespaceRoots = (tools: string): Step[] =>
  Object.entries(CALLS)
    .filter(([, { takes }]) => takes === 'namespace')
    .map(([name, { call }]) => asNamespaceRoot(name, tools, 'call', ...call.map(String)))

/** Asserts that each call is refused inside by the filter, and asked of the kernel outside. */
export function refusedCalls(
  { inside, outside }: { readonly inside: Steps; readonly outside: Steps },
  as: As,
  calls: Readonly<Record<string, Call>>,
  refusal: RegExp,
): string {
  const anyway: string[] = []
  for (const [name, { asked, takes }] of Object.entries(calls)) {
    const free = mostAllowed(outside, name, as, takes)
    if (takes !== 'machine' || as === 'root')
      assert.match(free, asked, `control: ${name} reaches the kernel outside`)
    if (refusal.test(free)) anyway.push(name)
    assert.match(inside.result(name).value, refusal, name)
  }
  const count = Object.keys(calls).length
  return anyway.length === 0
    ? `${count} calls refused`
    : `${count} refused, ${anyway.length} by the kernel anyway`
}
