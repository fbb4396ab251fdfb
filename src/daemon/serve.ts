/** The daemon's socket: one link a caller, peers checked before the first byte is read. */
import * as fs from 'node:fs'
import { type Server, type Socket, createServer } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { PRODUCT } from '../audit/product.ts'
import { AmbitError } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { type Paths, daemonSocket } from '../lib/paths.ts'
import type { Caller, Daemon } from './daemon.ts'
import { malformed } from './frames.ts'
import { Link } from './link.ts'
import { type Args, type Op, PROTOCOL, isOp, parseArgs } from './messages.ts'
import { type Peer, checkPeer } from '../lib/peer.ts'
import { claimDir, withAddress } from '../lib/socket-dir.ts'

const MAX_LINKS = 256

/**
 * The right to be the daemon of `paths`, or null when another process has it. Held until this process ends: the lock
 * dies with it, so a stale socket never keeps a new daemon out (T-11).
 */
export function claimDaemon(paths: Paths): number | null {
  claimDir(paths.run)
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants
  const fd = fs.openSync(join(paths.run, 'ambitd.lock'), O_RDWR | O_CREAT | O_NOFOLLOW, 0o600)
  if (native().tryLock(fd)) return fd
  fs.closeSync(fd)
  return null
}

export interface Serving {
  /** Open links. */
  readonly links: number
  /** False when the socket's name is gone: nobody can call any more. */
  readonly reachable: boolean
  close(): Promise<void>
}

/** Listens for callers of `daemon`. The lock is held, so whatever lies at the socket's place is stale. */
export async function serve(paths: Paths, daemon: Daemon, shutdown: () => void): Promise<Serving> {
  const path = daemonSocket(paths)
  fs.rmSync(path, { force: true })
  const links = new Set<Link>()
  const server = createServer((socket) => admit(socket, links, daemon, shutdown))
  await withAddress(dirname(path), basename(path), (address) => listen(server, address))
  return {
    get links() {
      return links.size
    },
    get reachable() {
      return fs.existsSync(path)
    },
    close: () => {
      for (const link of links) link.finish()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}

function listen(server: Server, address: string): Promise<void> {
  // No window in which the socket has another mode: the directory is private, and so is the umask.
  const mask = process.umask(0o177)
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(address, () => {
      server.off('error', reject)
      resolve()
    })
    process.umask(mask)
  })
}

function admit(socket: Socket, links: Set<Link>, daemon: Daemon, shutdown: () => void): void {
  let peer: Peer
  try {
    if (links.size >= MAX_LINKS)
      throw new AmbitError('ERR_DAEMON_PEER', 'the link was refused', 'too many links')
    peer = checkPeer(socket)
  } catch (error) {
    socket.destroy()
    report(error)
    return
  }
  let greeted = false
  const caller: Caller = {
    peer,
    order: ({ op, ...args }) => link.call(op, args, op === 'session.attest' ? 30_000 : 5_000),
  }
  const link: Link = new Link(socket, async (op, args) => {
    if (!isOp(op)) throw malformed('unknown operation')
    if (greeted === (op === 'hello')) throw malformed(greeted ? 'hello twice' : 'no hello')
    greeted = true
    return await answer(op, args, { daemon, caller, shutdown })
  })
  links.add(link)
  link.onLost((error) => {
    links.delete(link)
    daemon.lost(caller)
    if (error.code === 'ERR_DAEMON_PROTOCOL') report(error)
  })
}

interface Scope {
  readonly daemon: Daemon
  readonly caller: Caller
  readonly shutdown: () => void
}

async function answer(op: Op, raw: unknown, { daemon, caller, shutdown }: Scope): Promise<unknown> {
  const by = `uid ${caller.peer.uid}, pid ${caller.peer.pid}`
  const args = <O extends Op>(name: O): Args<O> => parseArgs(name, raw)
  switch (op) {
    case 'hello':
      if (args('hello').v !== PROTOCOL) throw malformed('another protocol version')
      return { v: PROTOCOL, version: PRODUCT.version, pid: process.pid }
    case 'session.open':
      return await daemon.openSession(args('session.open'), caller)
    case 'session.close':
      return await daemon.closeSession(args('session.close').id, caller)
    case 'kill':
    case 'freeze':
    case 'thaw':
      return await daemon.order({ op: `session.${op}`, id: args(op).id, by })
    case 'narrow':
      return await daemon.order({ op: 'session.narrow', ...args('narrow'), by })
    case 'attest':
      return await daemon.ask({ op: 'session.attest', ...args('attest'), by })
    case 'sessions':
      await daemon.settled()
      return { sessions: daemon.sessions(args('sessions').all) }
    case 'log.sync':
      args('log.sync')
      return await daemon.syncLog()
    case 'status':
      args('status')
      return daemon.status()
    case 'shutdown':
      args('shutdown')
      if (daemon.liveSessions > 0)
        throw new AmbitError('ERR_INPUT_INVALID', 'the daemon stays', 'sessions run', 'end them first')
      setImmediate(shutdown)
      return {}
  }
}

/** To the daemon's log file; a peer's text never gets here raw. */
function report(error: unknown): void {
  process.stderr.write(`ambitd: ${error instanceof AmbitError ? error.message : String(error)}\n`)
}
