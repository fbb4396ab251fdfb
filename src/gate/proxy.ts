/** The explicit HTTP proxy, for tools that want one. It gives no right that a direct connection would not have. */
import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { refusedTarget } from './credential.ts'
import { type Host, isAddress, parseAuthority } from '../lib/host.ts'
import { serveConnection } from './accept.ts'
import type { GateContext } from './context.ts'
import { Exchange } from './exchange.ts'
import { Flow, type FlowTarget, lingerOnClose } from './flow.ts'
import { forwardHttp1 } from './forward-http1.ts'
import { type GateOf, http1Options } from './http-servers.ts'
import type { Deadlines } from './options.ts'
import { rawProblem, type Refusal, refusal } from './refuse.ts'
import { sendRefusal } from './respond.ts'

/** The proxy's server; it is the only HTTP server here that listens. */
export function createProxyServer(deadlines: Deadlines, gate: GateOf): Server {
  const server = createServer({
    ...http1Options(deadlines),
    shouldUpgradeCallback: () => false,
  } as ServerOptions)
  server.maxHeadersCount = 0
  server.on('connection', lingerOnClose)
  server.on('connect', (request, socket: Duplex, head: Buffer) =>
    openConnect(gate(), request, socket as Socket, head),
  )
  server.on('request', (request, response) => forwardAbsolute(gate(), request, response, null))
  // Said here, for Node would refuse it by itself, without a record.
  server.on('checkExpectation', (request, response) =>
    forwardAbsolute(gate(), request, response, 'http.expectation-unknown'),
  )
  server.on('clientError', (_, socket: Duplex) => {
    if (!socket.writable) return socket.destroy()
    deny(gate(), socket as Socket, null, refusal('http.malformed'))
    return undefined
  })
  return server
}

/** CONNECT: refused here, before the 200, or served like a direct connection to the same name. */
function openConnect(gate: GateContext, request: IncomingMessage, socket: Socket, head: Buffer): void {
  socket.on('error', () => socket.destroy())
  // An answer to an earlier request of this connection would go into the tunnel, and one to this into that answer.
  if ((socket as { _httpMessage?: unknown })._httpMessage) {
    record(gate, null, refusal('http.malformed'))
    return void socket.destroy()
  }
  const authority = connectAuthority(request)
  if (!authority) return deny(gate, socket, null, refusal('http.malformed'))
  const target = { ...authority, address: isAddress(authority.host) ? authority.host : '' }
  const refused = refusalOf(gate, authority)
  if (refused) return deny(gate, socket, target, refused)
  socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
  if (head.length > 0) socket.unshift(head)
  serveConnection(gate, target, socket)
}

/** `host:port`, exactly, and a Host header that says the same. */
function connectAuthority(request: IncomingMessage): { host: Host; port: number } | null {
  const authority = /:\d+$/.test(request.url ?? '') ? parseAuthority(request.url ?? '', 0) : null
  const hosts = request.rawHeaders.filter(
    (_, at) => at % 2 === 1 && request.rawHeaders[at - 1]?.toLowerCase() === 'host',
  )
  if (!authority || hosts.length > 1) return null
  if (hosts[0] === undefined) return authority
  // Some clients leave the port out of Host; the name must still be the same one.
  const named = parseAuthority(hosts[0], authority.port)
  return named?.host === authority.host && named.port === authority.port ? authority : null
}

/** The same two questions that a direct connection answers: may this name be looked up, may it be connected to. */
function refusalOf(gate: GateContext, { host, port }: { host: Host; port: number }): Refusal | null {
  const binding = isAddress(host) ? null : gate.names.bind(host)
  // A plain-HTTP rule may be reached by CONNECT as well; what is inside is decided by what it turns out to be.
  const tls = gate.monitor.decide({ kind: 'net.connect', host, port, tls: true })
  const decision =
    tls.effect === 'allow' ? tls : gate.monitor.decide({ kind: 'net.connect', host, port, tls: false })
  if (decision.effect !== 'allow') return refusal(tls.reason, tls.rule)
  return binding === null || binding.reason === null ? null : refusal(binding.reason)
}

function deny(gate: GateContext, socket: Socket, target: FlowTarget | null, refused: Refusal): void {
  record(gate, target, refused)
  const host = target?.host ?? ''
  socket.write(rawProblem(refused, { profile: gate.monitor.plan.profile.name, host }))
  socket.destroySoon()
}

function record(gate: GateContext, target: FlowTarget | null, { reason, rule }: Refusal): void {
  if (target) return new Flow(gate, target).denied(reason, rule)
  gate.monitor.denied('', 0, reason, null)
  gate.monitor.note({ k: 'net.denied', flow: 0, host: '', address: '', port: 0, rule: null, reason })
}

/** `GET http://host/path`: plain HTTP, so only where a rule admits that. `refused`: why nothing can. */
function forwardAbsolute(
  gate: GateContext,
  request: IncomingMessage,
  response: ServerResponse,
  refused: string | null,
): void {
  const match = /^http:\/\/([^/?#]*)(\/?[^#]*)$/i.exec(request.url ?? '')
  const authority = match && parseAuthority(match[1] ?? '', 80)
  request.on('error', () => undefined)
  if (!authority) {
    gate.monitor.denied('', 0, 'http.malformed', null)
    const { method = '', url = '' } = request
    const fact = {
      k: 'http.denied',
      flow: 0,
      method,
      host: '',
      port: 0,
      path: refusedTarget(url),
      rule: null,
    } as const
    gate.monitor.note({ ...fact, reason: 'http.malformed', status: 400 })
    sendRefusal(
      response,
      refusal('http.malformed'),
      { profile: gate.monitor.plan.profile.name, host: '' },
      true,
    )
    request.resume()
    return
  }
  const { host } = authority
  const flow = new Flow(gate, { ...authority, address: isAddress(host) ? host : '' })
  const binding = isAddress(host) ? null : gate.names.bind(host)
  const reason = refused ?? binding?.reason
  if (reason) flow.refusal = refusal(reason)
  const rest = match[2] ?? ''
  request.url = rest.startsWith('/') ? rest : `/${rest}`
  response.once('close', () => flow.end())
  void new Exchange(gate, flow, request, response).run(forwardHttp1)
}
