/**
 * Who is at the other end of a unix socket. A sandboxed agent that found the socket would sit in another user or pid
 * namespace; another account has another uid. Both are refused, and so is whoever cannot be looked at.
 */
import * as fs from 'node:fs'
import type { Socket } from 'node:net'
import { AmbitError, messageOf } from './errors.ts'
import { native } from './native.ts'

export interface Peer {
  readonly pid: number
  readonly uid: number
}

/**
 * Call it after the peer was looked at in /proc: what has its number is still the process that connected.
 * @throws AmbitError ERR_DAEMON_PEER
 */
export function checkPeerLives(socket: Socket): void {
  if (!native().peerLives(descriptorOf(socket))) throw refused('it has ended')
}

/** The peer of `socket`, if it is a process of this account in our own namespaces. Throws ERR_DAEMON_PEER. */
export function checkPeer(socket: Socket): Peer {
  const { pid, uid } = native().peerCredentials(descriptorOf(socket))
  if (uid !== process.getuid?.()) throw refused('it belongs to another account')
  for (const kind of ['user', 'pid'] as const) {
    if (namespaceOf(String(pid), kind) !== namespaceOf('self', kind))
      throw refused(`it runs in another ${kind} namespace`)
  }
  checkPeerLives(socket)
  return { pid, uid }
}

function namespaceOf(process: string, kind: 'user' | 'pid'): string {
  try {
    return fs.readlinkSync(`/proc/${process}/ns/${kind}`)
  } catch (error) {
    throw refused(`its ${kind} namespace cannot be read: ${messageOf(error)}`)
  }
}

/** Node has no public way to a socket's descriptor; the handle's `fd` has been stable since Node 0.x. */
export function descriptorOf(socket: Socket): number {
  const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd
  if (typeof fd !== 'number' || fd < 0) throw refused('the socket is closed')
  return fd
}

function refused(why: string): AmbitError {
  return new AmbitError('ERR_DAEMON_PEER', 'the peer of the daemon socket was refused', why)
}
