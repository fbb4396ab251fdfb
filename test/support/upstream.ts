/**
 * HTTPS servers that a case sends to, and that keep everything they get: what did not arrive did not leave. The gate's
 * own tests have another (fixtures/servers/upstream.ts) that speaks HTTP/2 and plain HTTP, tells of a request at its
 * head, and knows routes; this one knows a request when its last byte is there, and signs for any name it is given.
 */
import { createHash } from 'node:crypto'
import type { IncomingMessage, RequestListener } from 'node:http'
import { createServer } from 'node:https'
import { createServer as createTcpServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { native } from '../../src/lib/native.ts'

export interface Seen {
  /** Whether the message came to its end; false where its sender broke it off. */
  readonly complete: boolean
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly rawHeaders: readonly string[]
  readonly servername: string | undefined
  /** Of the body. */
  readonly bytes: number
  readonly sha256: string
  readonly body: string
}

export interface Upstream {
  readonly port: number
  /** PEM of the CA that signed its certificate. */
  readonly ca: string
  readonly requests: Seen[]
  /** Targets of requests whose head has come. */
  readonly begun: readonly string[]
  /** TCP connections accepted, whatever came of them. */
  readonly connections: () => number
  /** Bytes read from the network below TLS. */
  readonly bytesRead: () => number
  readonly close: () => void
}

export type Answer = (request: Seen, response: Parameters<RequestListener>[1]) => void

/** Answers a request to speak another protocol. */
export type Upgrade = (request: IncomingMessage, socket: Duplex) => void

export interface ServerOptions {
  readonly address?: string
  readonly port?: number
  readonly answer?: Answer
  readonly upgrade?: Upgrade
  /** For how many seconds before now and after it its certificate is valid. */
  readonly valid?: readonly [number, number]
}

const KEPT = 4 * 1024 * 1024

/** Starts one; it answers `200 hello` unless `answer` says otherwise. */
export async function serveHttps(
  hosts: readonly string[],
  { address = '127.0.0.1', port = 0, answer, upgrade, valid = [3600, 86_400] }: ServerOptions = {},
): Promise<Upstream> {
  const now = Math.floor(Date.now() / 1000)
  const [from, to] = [now - valid[0], now + valid[1]]
  const ca = native().createCa('Ambit test upstream', from, to)
  const certificates = new Map(hosts.map((host) => [host, native().createLeaf(ca, host, from, to)]))
  const [first] = certificates.values()
  if (!first) throw new TypeError('an upstream needs a host')
  const requests: Seen[] = []
  const begun: string[] = []
  const sockets = new Set<Socket>()
  let closedBytes = 0
  let connections = 0
  const server = createServer(
    { cert: first.cert, key: first.key, ALPNProtocols: ['http/1.1'] },
    (request, response) => {
      begun.push(request.url ?? '')
      void receive(request).then((seen) => {
        requests.push(seen)
        if (answer) answer(seen, response)
        else response.end('hello')
      })
    },
  )
  if (upgrade) server.on('upgrade', upgrade)
  for (const [host, { cert, key }] of certificates) server.addContext(host, { cert, key })
  server.on('connection', (socket: Socket) => {
    connections += 1
    sockets.add(socket)
    socket.on('close', () => {
      sockets.delete(socket)
      closedBytes += socket.bytesRead
    })
  })
  const bound = await listen(server, port, address)
  return {
    port: bound,
    ca: ca.cert,
    requests,
    begun,
    connections: () => connections,
    bytesRead: () => closedBytes + [...sockets].reduce((sum, socket) => sum + socket.bytesRead, 0),
    close: () => server.close(),
  }
}

async function receive(request: IncomingMessage): Promise<Seen> {
  const digest = createHash('sha256')
  const kept: Buffer[] = []
  let bytes = 0
  try {
    for await (const chunk of request as AsyncIterable<Buffer>) {
      digest.update(chunk)
      if (bytes < KEPT) kept.push(chunk)
      bytes += chunk.length
    }
  } catch {
    // The sender went away; what came is kept, which is what the cases ask about.
  }
  return {
    complete: request.complete,
    method: request.method ?? '',
    url: request.url ?? '',
    headers: request.headers,
    rawHeaders: request.rawHeaders,
    servername: (request.socket as unknown as { servername?: string }).servername,
    bytes,
    sha256: digest.digest('hex'),
    body: Buffer.concat(kept).toString('latin1'),
  }
}

export interface Listener {
  readonly port: number
  readonly received: Buffer[]
  readonly connections: () => number
  readonly close: () => void
}

/** A bare TCP server that keeps what it gets and answers `greeting`. */
export async function serveTcp(address = '127.0.0.1', port = 0, greeting = ''): Promise<Listener> {
  const received: Buffer[] = []
  let connections = 0
  const server = createTcpServer((socket) => {
    connections += 1
    socket.on('data', (data) => received.push(data))
    socket.on('error', () => {
      // A reset by the other side is an answer, too.
    })
    if (greeting) socket.write(greeting)
  })
  const bound = await listen(server, port, address)
  return { port: bound, received, connections: () => connections, close: () => server.close() }
}

async function listen(server: Server, port: number, address: string): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, address, resolve)
  })
  server.unref()
  const bound = server.address()
  return typeof bound === 'object' && bound ? bound.port : port
}

/** Lets what is under way arrive before a test says that nothing came. */
export const settle = (): Promise<void> => sleep(150)
