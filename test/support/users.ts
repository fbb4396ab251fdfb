/** Who runs the product in a test: an ordinary user, and root where the tests themselves run as root. */
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, readFileSync, statSync } from 'node:fs'
import { homedir, userInfo } from 'node:os'

export type As = 'user' | 'root'

/** @throws TypeError with the names that there are. */
export function parseAs(name: string): As {
  if (name === 'user' || name === 'root') return name
  throw new TypeError(`nobody is tested as ${name}: it is user or root`)
}

export interface Account {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
}

const TEST_USER = 'ambit-test'
const isRoot = process.getuid?.() === 0

/** Why this variant cannot run here, or null. A reason is printed and counted as a skip, never passed over. */
export function unavailable(as: As): string | null {
  return as === 'root' && !isRoot ? 'the tests do not run as root' : null
}

/** The account behind a variant. Makes the test user on first use. */
export function account(as: As): Account {
  if (as === 'root' || !isRoot) {
    const { username, uid, gid } = userInfo()
    return { name: username, uid, gid, home: homedir() }
  }
  return findUser(TEST_USER) ?? makeUser()
}

/** Options for `spawn` that make the child run as this variant. Node drops the supplementary groups with them. */
export function identity(as: As): { uid?: number; gid?: number } {
  if (as === 'root' || !isRoot) return {}
  const { uid, gid } = account(as)
  return { uid, gid }
}

function findUser(name: string): Account | null {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`))
  if (!line) return null
  const [, , uid, gid, , home] = line.split(':')
  return { name, uid: Number(uid), gid: Number(gid), home: home ?? '/' }
}

function makeUser(): Account {
  try {
    execFileSync('useradd', ['--create-home', '--shell', '/bin/sh', TEST_USER], { stdio: 'pipe' })
  } catch (error) {
    // Two test processes may try at once; the loser finds the winner's user.
    const made = findUser(TEST_USER)
    if (!made) throw error
    return made
  }
  const made = findUser(TEST_USER)
  if (!made) throw new Error(`useradd made no ${TEST_USER}`)
  return made
}

/**
 * Ordinary users need /dev/fuse, and machines /dev/net/tun; distributions ship both 0666, some images do not. Returns a
 * note if one was changed.
 */
export function openDevices(): string | null {
  const closed = ['/dev/fuse', '/dev/net/tun'].filter(
    (device) => existsSync(device) && (statSync(device).mode & 0o006) !== 0o006,
  )
  if (!isRoot || closed.length === 0) return null
  for (const device of closed) chmodSync(device, 0o666)
  return `made ${closed.join(' and ')} readable and writable for all, as distributions ship them`
}
