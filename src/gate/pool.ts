/** Upstream connections that are kept and shared, by target. */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  constants,
  type OutgoingHttpHeaders,
} from 'node:http2'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { Link } from './link.ts'
import { type Dialler, type Target, UpstreamError } from './upstream.ts'
import { type Pipe, WireSocket } from './wire.ts'

/** Shorter than the idle limits that servers commonly have, so that a kept connection is rarely a dead one. */
const IDLE_MS = 4_000
/** A connection of Node's that has carried so many exchanges is replaced by a native one, which is made meanwhile. */
const WORTH_RENEWING = 4
/** Idle connections kept, a target. */
const MOST_IDLE = 32
const H2_IDLE_MS = 60_000
/** What a server has to close its side of an HTTP/2 connection that nothing is open on. */
const H2_CLOSING_MS = 1000

/** HTTP/1.1 connections; shared by target, never by what a header says. */
export class LinkPool {
  readonly #dialler: Dialler
  /** Idle ones by target, the latest last: it is the likeliest to live. */
  readonly #idle = new Map<string, Link[]>()
  readonly #all = new Set<Link>()
  #closed = false

  constructor(dialler: Dialler) {
    this.#dialler = dialler
  }

  /** A kept connection to the target, if there is one; `bulk`: much will be sent, which is worth a native one. */
  kept(target: Target, bulk: boolean): Link | null {
    const idle = this.#idle.get(target.key)
    const native = bulk && this.#dialler.knows(target)
    for (let link = last(idle, native); link; link = last(idle, native)) if (!link.dead) return link
    return null
  }

  /** A connection to the target that nobody has used. @throws UpstreamError */
  async open(target: Target): Promise<Link> {
    return this.#link(target, await this.#dialler.openHttp1(target))
  }

  /** Takes a connection that turned out to speak HTTP/1.1; the next request to its target uses it. */
  lend(target: Target, socket: Pipe): void {
    this.#keep(target, this.#link(target, socket))
  }

  /** Closes what has been idle for too long. */
  sweep(): void {
    const before = performance.now() - IDLE_MS
    for (const [key, links] of this.#idle) {
      const kept = links.filter((link) => {
        if (!link.dead && link.idleSince < before) link.destroy()
        return !link.dead
      })
      if (kept.length > 0) this.#idle.set(key, kept)
      else this.#idle.delete(key)
    }
  }

  close(): void {
    this.#closed = true
    for (const link of this.#all) link.destroy()
    this.#idle.clear()
  }

  #link(target: Target, socket: Pipe): Link {
    const link = new Link(socket, (free) => this.#free(target, free))
    this.#all.add(link)
    socket.once('close', () => this.#all.delete(link))
    return link
  }

  #free(target: Target, link: Link): void {
    if (link.retired) return link.destroy()
    this.#keep(target, link)
    const node = !(link.socket instanceof WireSocket)
    if (node && link.served === WORTH_RENEWING && this.#dialler.knows(target)) void this.#renew(target, link)
  }

  /** Never rejects: where no native one is to be had, the old one goes on. */
  async #renew(target: Target, old: Link): Promise<void> {
    const socket = await this.#dialler.openKnown(target).catch(() => null)
    if (!socket) return
    this.#keep(target, this.#link(target, socket))
    old.retired = true
    const idle = this.#idle.get(target.key) ?? []
    const at = idle.indexOf(old)
    if (at === -1) return
    idle.splice(at, 1)
    old.destroy()
  }

  #keep({ key }: Target, link: Link): void {
    if (this.#closed) return link.destroy()
    let idle = this.#idle.get(key)
    if (!idle) this.#idle.set(key, (idle = []))
    link.idleSince = performance.now()
    idle.push(link)
    if (idle.length > MOST_IDLE) idle.shift()?.destroy()
  }
}

/** Takes the last link, or the last native one. */
function last(idle: Link[] | undefined, native: boolean): Link | undefined {
  const at = native ? (idle?.findLastIndex(({ socket }) => socket instanceof WireSocket) ?? -1) : -1
  return native ? idle?.splice(at, at === -1 ? 0 : 1)[0] : idle?.pop()
}

/** What is open on an HTTP/2 session. */
interface Open {
  readonly session: ClientHttp2Session
  readonly socket: Socket
  /** The next request to its target gets another one. */
  forget(): void
  /** Those that wait for a place among them. */
  streams: number
  /** It takes no further request. */
  retired: boolean
}

/** HTTP/2 sessions, one a target. Only clients that speak HTTP/2 themselves are sent here (gRPC needs its trailers). */
export class Http2Pool {
  readonly #dialler: Dialler
  readonly #links: LinkPool
  readonly #sessions = new Map<string, Promise<ClientHttp2Session | null>>()
  readonly #open = new Map<ClientHttp2Session, Open>()
  #closed = false

  constructor(dialler: Dialler, links: LinkPool) {
    this.#dialler = dialler
    this.#links = links
  }

  /** A session to the target, or null when it does not speak HTTP/2. */
  session(target: Target): Promise<ClientHttp2Session | null> {
    const known = this.#sessions.get(target.key)
    if (!known) return this.#renew(target)
    return known.then((session) => {
      if (!session?.closed && !session?.destroyed) return session
      this.#forget(target, known)
      return this.session(target)
    })
  }

  #renew(target: Target): Promise<ClientHttp2Session | null> {
    const forget = (): void => this.#forget(target, fresh)
    const fresh: Promise<ClientHttp2Session | null> = this.#connect(target, forget)
    this.#sessions.set(target.key, fresh)
    fresh.catch(forget)
    return fresh
  }

  /** The target may have a later one by now. */
  #forget({ key }: Target, which: Promise<ClientHttp2Session | null>): void {
    if (this.#sessions.get(key) === which) this.#sessions.delete(key)
  }

  /** Opens a stream of a session. */
  request(session: ClientHttp2Session, headers: OutgoingHttpHeaders, endStream: boolean): ClientHttp2Stream {
    const stream = session.request(headers, { endStream })
    const open = this.#open.get(session)
    if (!open) return stream
    open.streams++
    stream.on('close', () => {
      open.streams--
      // Who has enough of a connection refuses every further stream of it.
      if (open.retired || stream.rstCode === constants.NGHTTP2_ENHANCE_YOUR_CALM) this.#retire(open)
    })
    return stream
  }

  /** Closes with its last stream; before, that would fail those that wait for a place. */
  #retire(open: Open): void {
    open.retired = true
    open.forget()
    if (open.streams > 0) return
    open.session.close()
    // Node waits for the other side without end.
    setTimeout(() => open.socket.destroy(), H2_CLOSING_MS).unref()
  }

  /** Where facts of a session are kept: `session.socket` is a proxy object. */
  socketOf(session: ClientHttp2Session): object {
    return this.#open.get(session)?.socket ?? session
  }

  close(): void {
    this.#closed = true
    for (const { session, socket } of this.#open.values()) {
      session.destroy()
      socket.destroy()
    }
    this.#sessions.clear()
  }

  async #connect(target: Target, forget: () => void): Promise<ClientHttp2Session | null> {
    if (!target.tls) return null
    const socket = (await this.#dialler.open(target, ['h2', 'http/1.1'])) as TLSSocket
    if (this.#closed) {
      socket.destroy()
      throw new UpstreamError('upstream.failed')
    }
    if (socket.alpnProtocol !== 'h2') {
      // Remembered for the session: this target speaks HTTP/1.1.
      this.#links.lend(target, socket)
      return null
    }
    const session = connectHttp2(`https://${target.host}`, {
      createConnection: () => socket,
      maxHeaderListPairs: 192,
      settings: { enablePush: false, initialWindowSize: 1 << 20 },
    })
    const open: Open = { session, socket, forget, streams: 0, retired: false }
    this.#open.set(session, open)
    socket.once('close', () => this.#open.delete(session))
    session.once('connect', () => {
      if (!session.destroyed) session.setLocalWindowSize(4 << 20)
    })
    const retire = (): void => this.#retire(open)
    session.on('close', forget).on('goaway', retire).on('error', forget)
    session.setTimeout(H2_IDLE_MS, retire)
    return session
  }
}
