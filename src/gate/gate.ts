/** The gate: the only way out of a session. Names, addresses, requests and bytes are decided, recorded and counted here. */
import type { Socket as UdpSocket } from 'node:dgram'
import type { Server as HttpServer } from 'node:http'
import type { AddressInfo, Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import { native } from '../lib/native.ts'
import { serveConnection, targetOfAddress } from './accept.ts'
import { UploadBudget } from './budget.ts'
import type { GateContext } from './context.ts'
import { CredentialBook } from './credential.ts'
import { Watch } from './deadline.ts'
import { createTcpServer, createUdpServer, DnsResponder } from './dns-server.ts'
import { createHttp1Server, createHttp2Server } from './http-servers.ts'
import { Monitor } from './monitor.ts'
import { NameBook } from './names.ts'
import { Openers } from './opener.ts'
import {
  type BoundPorts,
  DEADLINES,
  type Gate,
  type GateListeners,
  type GateOptions,
  type ListenOn,
} from './options.ts'
import { Http2Pool, LinkPool } from './pool.ts'
import { createProxyServer } from './proxy.ts'
import { SessionCa } from './session-ca.ts'
import { Dialler } from './upstream.ts'
import { Wire } from './wire.ts'

export type { Gate, GateOptions } from './options.ts'

/** Connections open at once, direct and by proxy; slots come back when they close. */
const MOST_CONNECTIONS = 512

/** Makes a session's gate with a fresh CA. It listens once it is given sockets. */
export async function createGate(options: GateOptions): Promise<Gate> {
  const context = createContext(options)
  const listeners = createListeners(options, context)
  return {
    caPem: context.ca.pem,
    listen: async (on) => {
      const ports = await listeners.listen(on)
      warmLater(options, context)
      return ports
    },
    pause: (reason) => context.monitor.pause(reason),
    resume: () => context.monitor.resume(),
    totals: () => context.monitor.totals(),
    close: (drainMs) => close(context, listeners, drainMs),
  }
}

/** Parsing the system's roots blocks for some 50 ms: not while cell and command start, however slowly, and not in a request. */
const WARM_AFTER_MS = 1000

function warmLater(options: GateOptions, context: GateContext): void {
  const warm = (): void => options.plan.network.forEach((rule) => context.dialler.warm(rule))
  setTimeout(warm, WARM_AFTER_MS).unref()
}

function createContext(options: GateOptions): GateContext {
  const { plan, secrets, placeholders } = options
  const deadlines = { ...DEADLINES, ...options.deadlines }
  const monitor = new Monitor(options, deadlines)
  const wire = options.wire === false ? null : openWire()
  const dialler = new Dialler(options, deadlines, wire)
  const links = new LinkPool(dialler)
  const gate = (): GateContext => context
  const context: GateContext = {
    monitor,
    names: new NameBook(plan),
    budget: new UploadBudget(plan.upload),
    credentials: new CredentialBook(plan, secrets, placeholders),
    ca: new SessionCa(options.issuer ?? native(), plan.isolation.wallclock),
    dialler,
    links,
    http2: new Http2Pool(dialler, links),
    openers: new Openers(),
    watch: new Watch(Math.min(500, deadlines.head / 4), () => {
      monitor.release()
      links.sweep()
    }),
    wire,
    http1Server: createHttp1Server(deadlines, gate),
    http2Server: createHttp2Server(gate),
  }
  return context
}

async function close(context: GateContext, listeners: Listeners, drainMs: number): Promise<void> {
  listeners.stop()
  const end = performance.now() + drainMs
  while (context.watch.size > 0 && performance.now() < end)
    await new Promise((resolve) => setTimeout(resolve, 20))
  context.monitor.pause('the session has ended')
  context.watch.expireAll()
  listeners.cut()
  // Never listening, so "not running" is all they can complain of.
  context.http1Server.close(() => undefined)
  context.http2Server.close(() => undefined)
  context.links.close()
  context.http2.close()
  context.wire?.stop()
  context.watch.stop()
}

/** Null with a Node that lacks what it needs: Node's own TLS has every connection then. */
function openWire(): Wire | null {
  try {
    return new Wire()
  } catch {
    return null
  }
}

/** The four listening sockets and every connection accepted on them. */
class Listeners {
  readonly #tcp: Server
  readonly #proxy: HttpServer
  readonly #dnsTcp: Server
  readonly #dns: UdpSocket
  readonly #connections = new Set<Socket>()

  constructor(
    tcp: Server,
    proxy: HttpServer,
    dnsTcp: Server,
    dns: UdpSocket,
    onDrop: (port: number) => void,
  ) {
    this.#tcp = tcp
    this.#proxy = proxy
    this.#dnsTcp = dnsTcp
    this.#dns = dns
    for (const server of [tcp, proxy, dnsTcp]) {
      server.maxConnections = MOST_CONNECTIONS
      server.on('connection', (socket: Socket) => this.#track(socket))
      server.on('drop', (dropped) => onDrop(dropped?.localPort ?? 0))
    }
  }

  async listen(on: GateListeners): Promise<BoundPorts> {
    const [tcp, proxy, dnsTcp] = await Promise.all([
      listenTcp(this.#tcp, on.tcp),
      listenTcp(this.#proxy, on.proxy),
      listenTcp(this.#dnsTcp, on.dnsTcp),
    ])
    const dns = await bindUdp(this.#dns, on.dns)
    return { tcp, proxy, dnsTcp, dns }
  }

  stop(): void {
    for (const server of [this.#tcp, this.#proxy, this.#dnsTcp]) server.close()
    try {
      this.#dns.close()
    } catch {
      // It was never bound, or is closed already.
    }
  }

  cut(): void {
    for (const socket of this.#connections) socket.destroy()
  }

  #track(socket: Socket): void {
    this.#connections.add(socket)
    socket.once('close', () => this.#connections.delete(socket))
  }
}

function createListeners(options: GateOptions, context: GateContext): Listeners {
  const whereTo = options.originalDestination ?? ((fd: number) => native().originalDestination(fd))
  const tcp = createServer((socket) => {
    const original = originalOf(socket, whereTo)
    const target = targetOfAddress(context, original)
    if (target) serveConnection(context, target, socket)
    else {
      // A synthetic address that no name was given: somebody guesses.
      context.monitor.denied('', original.port, 'net.unknown-address', null)
      const fact = { k: 'net.denied', flow: 0, host: '', rule: null, reason: 'net.unknown-address' } as const
      context.monitor.note({ ...fact, ...original })
      socket.destroy()
    }
  })
  const responder = new DnsResponder(context.names, context.monitor)
  const proxy = createProxyServer(context.monitor.deadlines, () => context)
  return new Listeners(
    tcp,
    proxy,
    createTcpServer(responder),
    createUdpServer(responder),
    dropRecorder(context),
  )
}

/** A refused connection costs its client next to nothing; one record a second says that it goes on. */
const DROP_RECORD_MS = 1000

function dropRecorder({ monitor }: GateContext): (port: number) => void {
  const reason = 'gate.too-many-connections'
  let next = 0
  return (port) => {
    monitor.denied('', port, reason, null)
    if (performance.now() < next) return
    next = performance.now() + DROP_RECORD_MS
    monitor.note({ k: 'net.denied', flow: 0, host: '', address: '', port, reason, rule: null })
  }
}

function originalOf(socket: Socket, whereTo: (fd: number) => { address: string; port: number }) {
  // Node shows the descriptor of a stream on its handle only.
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd
  try {
    return whereTo(fd ?? -1)
  } catch {
    // Gone again, or never redirected: an address that nothing matches.
    return { address: '', port: 0 }
  }
}

function listenTcp(server: Server, on: ListenOn): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(typeof on === 'number' ? { fd: on } : on, () => {
      server.off('error', reject)
      // EMFILE and the like: stay closed for that connection, go on for the next.
      server.on('error', () => undefined)
      resolve((server.address() as AddressInfo | null)?.port ?? 0)
    })
  })
}

function bindUdp(socket: UdpSocket, on: ListenOn): Promise<number> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    const bound = (): void => {
      socket.off('error', reject)
      resolve(socket.address().port)
    }
    if (typeof on === 'number') socket.bind({ fd: on }, bound)
    else socket.bind(on.port, on.host, bound)
  })
}
