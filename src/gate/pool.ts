/** Upstream connections that are kept and shared, by target. */
import { Agent, type ClientRequest } from 'node:http'
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { Dialler, Target } from './upstream.ts'

/** Shorter than the idle limits that servers commonly have, so that a kept connection is rarely a dead one. */
const IDLE_MS = 4_000
const H2_IDLE_MS = 60_000

interface TargetOptions {
  readonly target: Target
}

/** Node's agent with our way of dialling; connections are shared by target, never by what a header says. */
export class TargetAgent extends Agent {
  readonly #dialler: Dialler
  readonly #spares = new Map<string, Socket>()

  constructor(dialler: Dialler) {
    // As many as the gate takes in: fewer would queue requests where nobody sees them wait.
    super({ keepAlive: true, maxSockets: 512, maxFreeSockets: 32, scheduling: 'lifo' })
    this.#dialler = dialler
  }

  /** Takes a connection that turned out to speak HTTP/1.1; the next request to its target uses it. */
  lend(target: Target, socket: Socket): void {
    this.#spares.get(target.key)?.destroy()
    this.#spares.set(target.key, socket)
  }

  override getName(options?: object): string {
    return (options as TargetOptions | undefined)?.target.key ?? ''
  }

  override createConnection(
    options: object,
    callback?: (error: Error | null, socket: Socket) => void,
  ): undefined {
    const { target } = options as TargetOptions
    const spare = this.#spares.get(target.key)
    this.#spares.delete(target.key)
    if (spare && !spare.destroyed) {
      process.nextTick(() => callback?.(null, spare))
      return
    }
    this.#dialler.open(target, ['http/1.1']).then(
      (socket) => callback?.(null, socket),
      (error: Error) => callback?.(error, undefined as unknown as Socket),
    )
  }

  override destroy(): void {
    for (const spare of this.#spares.values()) spare.destroy()
    this.#spares.clear()
    super.destroy()
  }

  override keepSocketAlive(socket: Socket): boolean {
    const keep = Boolean(super.keepSocketAlive(socket))
    if (keep) socket.setTimeout(IDLE_MS)
    return keep
  }

  override reuseSocket(socket: Socket, request: ClientRequest): void {
    socket.setTimeout(0)
    super.reuseSocket(socket, request)
  }
}

/** HTTP/2 sessions, one a target. Only clients that speak HTTP/2 themselves are sent here (gRPC needs its trailers). */
export class Http2Pool {
  readonly #dialler: Dialler
  readonly #agent: TargetAgent
  readonly #sessions = new Map<string, Promise<ClientHttp2Session | null>>()
  /** `session.socket` is a proxy object; facts are kept by the socket itself. */
  readonly #sockets = new WeakMap<ClientHttp2Session, Socket>()

  constructor(dialler: Dialler, agent: TargetAgent) {
    this.#dialler = dialler
    this.#agent = agent
  }

  /** A session to the target, or null when it does not speak HTTP/2. */
  session(target: Target): Promise<ClientHttp2Session | null> {
    const known = this.#sessions.get(target.key)
    if (known)
      return known.then((session) => (session?.closed || session?.destroyed ? this.#renew(target) : session))
    return this.#renew(target)
  }

  #renew(target: Target): Promise<ClientHttp2Session | null> {
    const fresh = this.#connect(target)
    this.#sessions.set(target.key, fresh)
    fresh.catch(() => this.#sessions.delete(target.key))
    return fresh
  }

  socketOf(session: ClientHttp2Session): object {
    return this.#sockets.get(session) ?? session
  }

  close(): void {
    for (const session of this.#sessions.values())
      session.then(
        (open) => open?.destroy(),
        () => undefined,
      )
    this.#sessions.clear()
  }

  async #connect(target: Target): Promise<ClientHttp2Session | null> {
    if (!target.tls) return null
    const socket = (await this.#dialler.open(target, ['h2', 'http/1.1'])) as TLSSocket
    if (socket.alpnProtocol !== 'h2') {
      // Remembered for the session: this target speaks HTTP/1.1.
      this.#agent.lend(target, socket)
      return null
    }
    const session = connectHttp2(`https://${target.host}`, {
      createConnection: () => socket,
      maxHeaderListPairs: 192,
      settings: { enablePush: false, initialWindowSize: 1 << 20 },
    })
    this.#sockets.set(session, socket)
    session.once('connect', () => session.setLocalWindowSize(4 << 20))
    const forget = (): void => {
      this.#sessions.delete(target.key)
    }
    session.on('close', forget).on('goaway', forget).on('error', forget)
    session.setTimeout(H2_IDLE_MS, () => session.close())
    return session
  }
}
