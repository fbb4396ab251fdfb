/**
 * What passes unread: TLS of rules with `inspect: false`, after its name and the server's certificate were checked, and
 * anything to the pinned address of a PORT/tcp rule.
 */
import type { Socket } from 'node:net'
import type { NetworkRule } from '../profile/plan.ts'
import { gather } from './backlog.ts'
import { UploadMeter } from './budget.ts'
import type { ClientHello } from './client-hello.ts'
import type { GateContext } from './context.ts'
import type { Watched } from './deadline.ts'
import type { Flow } from './flow.ts'
import { Splice } from './splice.ts'
import { type Dialled, targetOf, UpstreamError } from './upstream.ts'

/** Certificates verified in this session, by target and address. */
const verified = new WeakMap<GateContext, Map<string, Dialled>>()

/** A connection to the server, and what is recorded of it. */
interface Way {
  readonly upstream: Socket
  readonly dialled: Dialled | undefined
}

/** Joins `client`, whose first bytes wait in its buffer, with the server. Never rejects. */
export async function openTunnel(
  gate: GateContext,
  flow: Flow,
  rule: NetworkRule,
  hello: ClientHello,
  client: Socket,
): Promise<void> {
  const dial = async (): Promise<Way> => {
    const dialled = await verify(gate, flow, rule, protocolsOf(hello))
    const target = targetOf(rule, flow.host, flow.port, true)
    const connect = rule.connect ?? pinned(dialled)
    return { upstream: await gate.dialler.dial({ ...target, rule: { ...rule, connect } }), dialled }
  }
  await open(gate, flow, rule, client, dial, (reason) => {
    flow.denied(reason, rule.id)
    flow.end()
    client.destroy()
  })
}

/** Joins `client` with the address that a PORT/tcp rule pins; `refuse` answers when that fails. Never rejects. */
export async function openRaw(
  gate: GateContext,
  flow: Flow,
  rule: NetworkRule,
  client: Socket,
  refuse: (reason: string) => void,
): Promise<void> {
  const dial = async (): Promise<Way> => {
    const upstream = await gate.dialler.dial(targetOf(rule, flow.host, flow.port, false))
    return { upstream, dialled: gate.dialler.factsOf(upstream) }
  }
  await open(gate, flow, rule, client, dial, refuse)
}

async function open(
  gate: GateContext,
  flow: Flow,
  rule: NetworkRule,
  client: Socket,
  dial: () => Promise<Way>,
  refuse: (reason: string) => void,
): Promise<void> {
  const { monitor } = gate
  // What it says while the server is dialled waits.
  gather(client)
  try {
    const id = monitor.request(flow.host)
    monitor.record({
      k: 'http.request',
      flow: flow.id,
      request: id,
      method: 'CONNECT',
      host: flow.host,
      port: flow.port,
      path: '',
      rule: rule.id,
      credential: null,
      label: monitor.state().label,
      bytes: 0,
    })
    await monitor.commit()
    if (monitor.stopped) throw new UpstreamError('session.stopped')
    const { upstream, dialled } = await dial()
    flow.opened(dialled, rule.id)
    if (client.destroyed) {
      upstream.destroy()
      return flow.end()
    }
    new Tunnel(gate, flow, rule, client, upstream)
  } catch (error) {
    refuse(error instanceof UpstreamError ? error.reason : 'gate.unrecordable')
  }
}

/**
 * TLS 1.3 hides the server's certificate from us in the client's own handshake, so a handshake of ours asks first;
 * the client's connection then goes to the very address that showed a valid one.
 */
async function verify(
  gate: GateContext,
  flow: Flow,
  rule: NetworkRule,
  alpn: readonly string[],
): Promise<Dialled> {
  const target = targetOf(rule, flow.host, flow.port, true)
  const known = verified.get(gate) ?? new Map<string, Dialled>()
  verified.set(gate, known)
  const before = known.get(target.key)
  if (before) return before
  const probe = await gate.dialler.open(target, alpn)
  const dialled = gate.dialler.factsOf(probe)
  probe.destroy()
  if (!dialled) throw new UpstreamError('upstream.failed')
  known.set(target.key, dialled)
  return dialled
}

/** Servers may refuse a handshake that does not offer their own protocol (PostgreSQL does): ours offers what theirs will. */
const protocolsOf = ({ alpn }: ClientHello): string[] => alpn.filter((name) => /^[!-~]{1,64}$/.test(name))

/** Through a corporate proxy there is no address of ours to pin. */
function pinned(dialled: Dialled): NetworkRule['connect'] {
  return dialled.address.startsWith('proxy:') ? null : { address: dialled.address, port: dialled.port }
}

class Tunnel implements Watched {
  readonly #splice: Splice
  readonly #patience: number
  deadline = 0

  constructor(gate: GateContext, flow: Flow, rule: NetworkRule, client: Socket, upstream: Socket) {
    const meter = new UploadMeter(gate.budget)
    this.#patience = gate.monitor.deadlines.streamIdle
    this.#touch()
    gate.watch.add(this)
    this.#splice = new Splice(client, upstream, {
      monitor: gate.monitor,
      charge: (bytes) => {
        const decision = gate.monitor.decide({
          kind: 'net.connect',
          host: flow.host,
          port: flow.port,
          tls: flow.tls,
        })
        return decision.effect === 'allow' ? meter.charge(bytes) : decision.reason
      },
      cut: (reason) => {
        flow.denied(reason, rule.id)
        this.expire()
      },
      movedOut: (bytes) => {
        this.#touch()
        flow.moved(bytes, 0)
      },
      movedIn: (bytes) => {
        this.#touch()
        meter.turn()
        flow.moved(0, bytes)
      },
      closed: () => {
        gate.watch.delete(this)
        flow.end()
      },
    })
  }

  expire(): void {
    this.#splice.destroy()
  }

  #touch(): void {
    this.deadline = performance.now() + this.#patience
  }
}
