/** Ends a client's TLS, under the session's own certificate authority. */
import type { Socket } from 'node:net'
import { type SecureContext, TLSSocket } from 'node:tls'
import type { Host } from '../lib/host.ts'
import type { ClientHello } from './client-hello.ts'
import type { GateContext } from './context.ts'
import { carry, type Flow, lingerOnClose } from './flow.ts'
import { serveHttp1 } from './http-servers.ts'
import { handleOf, type Wire, type WireSocket } from './wire.ts'

/** Ends TLS here as `name`, and serves what is inside. */
export function terminate(
  gate: GateContext,
  flow: Flow,
  hello: ClientHello,
  name: Host,
  socket: Socket,
): void {
  if (gate.wire && isUsual(hello)) terminateNatively(gate, gate.wire, flow, name, socket)
  else terminateByNode(gate, flow, name, socket)
}

/** What the wire serves: TLS 1.3 for HTTP/1.1. A client that knows HTTP/2 gets that, from Node. */
const isUsual = ({ modern, alpn }: ClientHello): boolean =>
  modern && !alpn.includes('h2') && (alpn.length === 0 || alpn.includes('http/1.1'))

/** The bytes are read and written by native code. */
function terminateNatively(gate: GateContext, wire: Wire, flow: Flow, name: Host, socket: Socket): void {
  let tls: WireSocket
  let refused = 'tls.no-certificate'
  try {
    // The name is the attacker's; one that no certificate can carry must not end the gate.
    const certificate = gate.ca.numberFor(name, wire)
    refused = 'tls.handshake-failed'
    // All that was read so far; from here on the wire reads, and this socket only keeps its place.
    const first = (socket.read() as Buffer | null) ?? Buffer.alloc(0)
    handleOf(socket).readStop()
    tls = wire.accept(socket, certificate, first)
  } catch {
    flow.denied(refused)
    socket.destroy()
    return
  }
  let secure = false
  const timer = setTimeout(() => {
    flow.denied('tls.slow-handshake')
    secure = true
    tls.destroy()
  }, gate.monitor.deadlines.head)
  tls.once('close', () => {
    clearTimeout(timer)
    if (tls.ending === 'distrusted') flow.denied('tls.client-distrusts-ca')
    else if (!secure && tls.ending === 'tls') flow.denied('tls.handshake-failed')
    socket.destroy()
  })
  socket.once('close', () => tls.destroy())
  tls.once('secure', () => {
    clearTimeout(timer)
    secure = true
    lingerOnClose(tls)
    carry(flow, tls)
    serveHttp1(gate, tls)
  })
}

/** Like `terminateNatively`, by Node's own TLS. */
function terminateByNode(gate: GateContext, flow: Flow, name: Host, socket: Socket): void {
  let secureContext: SecureContext
  try {
    secureContext = gate.ca.contextFor(name)
  } catch {
    flow.denied('tls.no-certificate')
    socket.destroy()
    return
  }
  const tls = new TLSSocket(socket, {
    isServer: true,
    secureContext,
    ALPNProtocols: ['h2', 'http/1.1'],
  }) as ServerTls
  const timer = setTimeout(() => failed('tls.slow-handshake'), gate.monitor.deadlines.head)
  let over = false
  const failed = (reason: string | null): void => {
    if (reason !== null && !over) flow.denied(reason)
    over = true
    tls.destroy()
  }
  // Before the handshake is done, errors come as `_tlsError`; afterwards as `error`.
  tls.once('_tlsError', (error: Error) =>
    failed(isDistrust(error) ? 'tls.client-distrusts-ca' : 'tls.handshake-failed'),
  )
  // In TLS 1.3 the client's alert arrives after our side of the handshake is done.
  tls.on('error', (error) => failed(isDistrust(error) ? 'tls.client-distrusts-ca' : null))
  tls.on('close', () => {
    clearTimeout(timer)
    socket.destroy()
  })
  tls.once('secure', () => {
    clearTimeout(timer)
    release(tls)
    // One handshake, one name: nothing that follows may ask for another.
    tls.disableRenegotiation()
    lingerOnClose(tls)
    carry(flow, tls)
    if (tls.alpnProtocol === 'h2') gate.http2Server.emit('secureConnection', tls)
    else serveHttp1(gate, tls)
  })
}

/** What a TLSSocket has and its types do not say. */
type ServerTls = TLSSocket & { secureConnecting: boolean; _releaseControl(): boolean }

/**
 * What tls.Server does to a socket when its handshake is done. A tls.Server of our own would do it too, but would not
 * say which connection a socket belongs to. Node is pinned, and the tests of HTTP/2 and of distrusting clients fail
 * if this changes.
 */
function release(tls: ServerTls): void {
  tls.removeAllListeners('_tlsError')
  tls._releaseControl()
  tls.secureConnecting = false
}

/** Alerts 42, 46 and 48 (RFC 8446 §6.2): the client looked at our certificate and said no. */
function isDistrust(error: Error): boolean {
  const code = (error as { code?: string }).code ?? ''
  return /ALERT_(?:UNKNOWN_CA|BAD_CERTIFICATE|CERTIFICATE_UNKNOWN)/.test(code)
}
