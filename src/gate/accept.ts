/** From an accepted connection to HTTP: whom is it for, what does it speak, who shall terminate it. */
import type { Socket } from 'node:net'
import { type Host, matchesHost, parseHost } from '../lib/host.ts'
import type { NetworkRule } from '../profile/plan.ts'
import { type ClientHello, parseClientHello } from './client-hello.ts'
import type { GateContext } from './context.ts'
import { carry, Flow, type FlowTarget, lingerOnClose } from './flow.ts'
import { serveHttp1 } from './http-servers.ts'
import { isSynthetic } from './names.ts'
import { type OtherProtocol, recognise, serverFirst, SPEAK_FIRST_MS } from './other-protocols.ts'
import { problemText, refusal } from './refuse.ts'
import { terminate } from './terminate.ts'
import { openRaw, openTunnel } from './tunnel.ts'

/** More first bytes than any hello has. */
const MOST_FIRST_BYTES = 65_536

/** What a redirected connection was for; null when its synthetic address belongs to no name. */
export function targetOfAddress(
  gate: GateContext,
  original: { address: string; port: number },
): FlowTarget | null {
  const { address, port } = original
  const host = isSynthetic(address) ? gate.names.nameOf(address) : parseHost(address)
  return host ? { host, port, address } : null
}

/** Serves one connection, until its end. Everything that arrives on it is the attacker's. */
export function serveConnection(gate: GateContext, target: FlowTarget, socket: Socket): void {
  const flow = new Flow(gate, target)
  const limit = gate.names.limitOf(target.host)
  if (limit !== null) flow.refuseAll(limit)
  socket.setNoDelay(true)
  socket.on('error', () => socket.destroy())
  socket.once('close', () => flow.end())
  lingerOnClose(socket)
  const raw = limit === null ? rawRule(gate, flow) : undefined
  if (raw) return serveRaw(gate, flow, raw, socket)
  firstBytes(socket, gate.monitor.deadlines.head, serverFirst(target.port), (opening) => {
    if (opening.kind === 'tls') serveTls(gate, flow, opening.hello, socket)
    else if (opening.kind === 'http') servePlain(gate, flow, socket)
    else if (opening.kind === 'other')
      refuseOther(flow, opening.protocol, socket, gate.monitor.deadlines.head)
    else {
      if (opening.why !== 'nothing') flow.denied(opening.why)
      socket.destroy()
    }
  })
}

type Opening =
  | { readonly kind: 'tls'; readonly hello: ClientHello }
  | { readonly kind: 'http' }
  | { readonly kind: 'other'; readonly protocol: OtherProtocol }
  | { readonly kind: 'close'; readonly why: string }

/** Waits for enough bytes to know the protocol, and puts them back. `waiting`: what a silent client is taken for. */
function firstBytes(
  socket: Socket,
  ms: number,
  waiting: OtherProtocol | null,
  then: (opening: Opening) => void,
): void {
  let bytes: Buffer = Buffer.alloc(0)
  const silent = waiting
    ? setTimeout(
        () => bytes.length === 0 && settle({ kind: 'other', protocol: waiting }),
        Math.min(SPEAK_FIRST_MS, ms),
      )
    : undefined
  const timer = setTimeout(
    () => settle({ kind: 'close', why: bytes.length === 0 ? 'net.silent' : 'net.slow-head' }),
    ms,
  )
  const settle = (opening: Opening): void => {
    clearTimeout(timer)
    clearTimeout(silent)
    socket.off('data', onData)
    socket.off('end', onEnd)
    socket.off('close', onClose)
    socket.pause()
    if (bytes.length > 0 && opening.kind !== 'close') socket.unshift(bytes)
    then(opening)
  }
  const onData = (chunk: Buffer): void => {
    bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
    const opening = classify(bytes)
    if (opening) settle(opening)
  }
  const onEnd = (): void =>
    settle({ kind: 'close', why: bytes.length === 0 ? 'nothing' : 'net.truncated-head' })
  const onClose = (): void => settle({ kind: 'close', why: 'nothing' })
  socket.on('data', onData)
  socket.on('end', onEnd)
  socket.on('close', onClose)
}

/** TLS, or a line that begins like HTTP/1; anything else is no protocol of ours (N-23). Null: not enough bytes yet. */
function classify(bytes: Buffer): Opening | null {
  if (bytes[0] === 22) {
    const result = parseClientHello(bytes)
    if (result.kind === 'hello') return { kind: 'tls', hello: result.hello }
    if (result.kind === 'unreadable') return { kind: 'close', why: 'tls.unreadable-hello' }
    return bytes.length < MOST_FIRST_BYTES ? null : { kind: 'close', why: 'tls.unreadable-hello' }
  }
  const text = bytes.toString('latin1', 0, 24)
  if (/^[A-Z-]{3,20} \S/.test(text) && !text.startsWith('PRI ')) return { kind: 'http' }
  if (/^[A-Z-]{0,20} ?$/.test(text)) return null
  const protocol = recognise(bytes)
  return protocol ? { kind: 'other', protocol } : { kind: 'close', why: 'net.unknown-protocol' }
}

/** Its own kind of no; what the client still sends is read and thrown away, and not for long. */
function refuseOther(flow: Flow, protocol: OtherProtocol, socket: Socket, ms: number): void {
  flow.denied(protocol.reason)
  answerOther(protocol, socket, ms)
}

function answerOther(protocol: OtherProtocol, socket: Socket, ms: number, why?: string): void {
  socket.setTimeout(ms, () => socket.destroy())
  protocol.refuse(socket, why)
  socket.once('finish', () => socket.destroySoon())
  socket.resume()
}

/** The rule by which anything passes to this port; whether it does now is another question. */
const rawRule = (gate: GateContext, { host, port }: Flow): NetworkRule | undefined =>
  gate.monitor.plan.network.find(
    (rule) => rule.raw && rule.ports.includes(port) && matchesHost(rule.host, host),
  )

function serveRaw(gate: GateContext, flow: Flow, rule: NetworkRule, socket: Socket): void {
  const { host, port } = flow
  const refuse = (reason: string): void => refuseRaw(gate, flow, rule, reason, socket)
  const decision = gate.monitor.decide({ kind: 'net.connect', host, port, tls: false })
  if (decision.effect !== 'allow' || decision.rule !== rule.id) refuse(decision.reason)
  else void openRaw(gate, flow, rule, socket, refuse)
}

/** In the words of the protocol that the client turns out to speak, if it is one that we know. */
function refuseRaw(gate: GateContext, flow: Flow, rule: NetworkRule, reason: string, socket: Socket): void {
  const { monitor } = gate
  const context = { profile: monitor.plan.profile.name, host: flow.host }
  const why = problemText(refusal(reason, rule.id), context).toString().trim()
  flow.denied(reason, rule.id)
  firstBytes(socket, monitor.deadlines.head, serverFirst(flow.port), (opening) => {
    if (opening.kind === 'other') answerOther(opening.protocol, socket, monitor.deadlines.head, why)
    else socket.destroy()
  })
}

/** HTTP in the clear. Only rules that say so admit it; the others' refusals are readable this way too. */
function servePlain(gate: GateContext, flow: Flow, socket: Socket): void {
  carry(flow, socket)
  serveHttp1(gate, socket)
  // It was paused for the look at its first bytes, and a listener only starts a socket that never was.
  socket.resume()
}

function serveTls(gate: GateContext, flow: Flow, hello: ClientHello, socket: Socket): void {
  flow.tls = true
  const name = helloName(flow, hello)
  if (name === null) flow.refuseAll(hello.serverName === null ? 'tls.name-missing' : 'tls.name-mismatch')
  const rule = flow.refusal ? undefined : opaqueRule(gate, flow)
  if (rule) void openTunnel(gate, flow, rule, hello, socket)
  else {
    const name = parseHost(hello.serverName ?? '') ?? flow.host
    terminate(gate, flow, hello, name, socket)
  }
}

/** The host when the hello names it; null when it names another or, for a name, none (N-20, N-21). */
function helloName(flow: Flow, hello: ClientHello): Host | null {
  // Server names are never addresses (RFC 6066 §3): a connection to one has none.
  if (hello.serverName === null) return flow.address === flow.host ? flow.host : null
  return parseHost(hello.serverName) === flow.host ? flow.host : null
}

function opaqueRule(gate: GateContext, flow: Flow) {
  const decision = gate.monitor.decide({ kind: 'net.connect', host: flow.host, port: flow.port, tls: true })
  if (decision.effect !== 'allow' || decision.obligations.some((one) => one.kind === 'inspect'))
    return undefined
  return gate.monitor.plan.network.find((rule) => rule.id === decision.rule)
}
