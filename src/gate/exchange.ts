/** One request and its answer: decide, record, make durable, send; count and record the end. */
import type { EventEmitter } from 'node:events'
import { Readable } from 'node:stream'
import type { Decision } from '../policy/decision.ts'
import type { NetworkRule } from '../profile/plan.ts'
import { gather } from './backlog.ts'
import { UploadMeter } from './budget.ts'
import type { GateContext } from './context.ts'
import { fingerprint, type Injection, redactTarget, refusedTarget } from './credential.ts'
import type { Watched } from './deadline.ts'
import type { Flow } from './flow.ts'
import { type ClientRequest, type Inbound, readInbound } from './inbound.ts'
import { isSwollen, type Opener } from './opener.ts'
import { outboundHead } from './outbound.ts'
import { UploadPump, type UploadSink } from './pump.ts'
import { type Refusal, refusal } from './refuse.ts'
import { type ClientResponse, cut, sendRefusal } from './respond.ts'
import { type Dialled, type Target, UpstreamError } from './upstream.ts'

/** What an admitted request is sent with. */
export interface Admitted {
  readonly inbound: Inbound
  readonly target: Target
  readonly path: string
  readonly headers: string[]
  readonly injection: Injection | null
}

/** Speaks to the upstream server once the record is durable. Rejects with an UpstreamError before anything was sent. */
export type Forward = (exchange: Exchange, admitted: Admitted) => Promise<void>

/** Under way at once, over all connections: pipelining and streams would otherwise have no bound. */
const MOST_EXCHANGES = 1024

/** One request of a client, from its head to the record of its end. */
export class Exchange implements Watched {
  readonly gate: GateContext
  readonly flow: Flow
  readonly request: ClientRequest
  readonly response: ClientResponse
  readonly meter: UploadMeter
  readonly #started = performance.now()
  deadline = Number.POSITIVE_INFINITY
  id = 0
  status = 0
  scrubbed = 0
  bytesIn = 0
  /** Ends the upstream half; set by whoever opened it. */
  abort: () => void = () => undefined
  /** The monitor's epoch in which this request was last allowed. */
  #allowedIn = -1
  #opener: Opener | null = null
  #pump: UploadPump | null = null
  #patience = 0
  #over = false
  #denied = false

  constructor(gate: GateContext, flow: Flow, request: ClientRequest, response: ClientResponse) {
    this.gate = gate
    this.flow = flow
    this.request = request
    this.response = response
    this.meter = new UploadMeter(gate.budget)
    const crowded = (): void => this.crowded()
    if ('stream' in request) gather(request.stream, crowded)
    if (request instanceof Readable) gather(request, crowded)
  }

  get over(): boolean {
    return this.#over
  }

  /** Never rejects: what the client made us trip over ends its own exchange, not the session's supervisor. */
  async run(forward: Forward): Promise<void> {
    try {
      const admitted = this.#begun()
      if (admitted === null || !(await this.#recorded(admitted)) || this.#over) return
      this.expectWithin(this.gate.monitor.deadlines.response)
      try {
        await forward(this, admitted)
      } catch (error) {
        const reason = error instanceof UpstreamError ? error.reason : 'upstream.failed'
        this.refuse(refusal(reason, admitted.target.rule.id), admitted.inbound)
      }
    } catch {
      cut(this.response)
      this.finish()
    }
  }

  #begun(): Admitted | null {
    const { gate } = this
    if (gate.watch.size >= MOST_EXCHANGES) return this.#refused(refusal('gate.too-many-exchanges'))
    const admitted = this.admit()
    if (admitted === null) return null
    gate.watch.add(this)
    const events: EventEmitter = this.response
    events.on('close', () => this.finish())
    return admitted
  }

  /** Reads and decides; null when the request has been refused. Touches nothing outside. */
  admit(): Admitted | null {
    const { flow, gate } = this
    if (flow.refusal) return this.#refused(flow.refusal)
    const inbound = readInbound(this.request, flow, flow.tls)
    if (typeof inbound === 'string') return this.#refused(refusal(inbound))
    const { host, port, tls } = flow
    const { method, target: path } = inbound
    const decision = gate.monitor.decide({ kind: 'http.request', host, port, tls, method, path })
    if (decision.effect !== 'allow') return this.#refused(refusal(decision.reason, decision.rule), inbound)
    this.#allowedIn = gate.monitor.decidedIn
    const rule = this.#ruleOf(decision)
    const refused = contentRefusal(inbound)
    if (refused !== null) return this.#refused(refusal(refused, rule.id), inbound)
    return this.#prepare(inbound, rule, decision)
  }

  #prepare(inbound: Inbound, rule: NetworkRule, decision: Decision): Admitted | null {
    const { gate, flow } = this
    const inject = decision.obligations.find((obligation) => obligation.kind === 'inject')
    const injection = inject ? gate.credentials.injection(inject.credential) : null
    if (injection === undefined) return this.#refused(refusal('credential.unavailable', rule.id), inbound)
    const target = flow.targetUnder(rule)
    const head = outboundHead(inbound, target, gate.credentials, injection)
    if (head.kind === 'malformed') return this.#refused(refusal('http.malformed', rule.id), inbound)
    if (head.kind === 'misplaced') return this.#refused(refusal('credential.misplaced', rule.id), inbound)
    if (head.kind === 'foreign') return this.#foreign(head.header, head.value, rule, inbound)
    const over =
      this.meter.foresee(inbound.headBytes + (inbound.contentLength ?? 0)) ??
      this.meter.charge(inbound.headBytes)
    if (over !== null) return this.#refused(refusal(over, rule.id), inbound)
    return { inbound, target, path: head.target, headers: head.headers, injection }
  }

  #ruleOf(decision: Decision): NetworkRule {
    const rule = this.gate.monitor.plan.network.find((rule) => rule.id === decision.rule)
    if (!rule) throw new TypeError(`an allow names no rule of the plan: ${decision.rule}`)
    return rule
  }

  /** Writes before acting: false when the record failed, and then nothing is sent. */
  async #recorded({ inbound, target, injection }: Admitted): Promise<boolean> {
    const { monitor } = this.gate
    const { host, port } = this.flow
    this.id = monitor.request(host)
    try {
      monitor.record({
        k: 'http.request',
        flow: this.flow.id,
        request: this.id,
        method: inbound.method,
        host,
        port,
        path: redactTarget(inbound.target),
        rule: target.rule.id,
        credential: injection?.name ?? null,
        label: monitor.label,
        bytes: inbound.headBytes + (inbound.contentLength ?? 0),
      })
      if (injection)
        monitor.record({ k: 'credential.injected', name: injection.name, host, request: this.id })
      await monitor.commit()
    } catch {
      this.refuse(refusal('gate.unrecordable', target.rule.id), inbound)
      return false
    }
    if (!monitor.stopped) {
      this.flow.moved(inbound.headBytes, 0)
      return true
    }
    this.refuse(refusal('session.stopped', target.rule.id), inbound)
    return false
  }

  /**
   * Why nothing more of this request may go out, or null. A decision holds for its moment only: while a connection is
   * made or a body is sent the session may freeze, or read what its destination has no clearance for.
   */
  refusalNow({ method, target: path }: Inbound): string | null {
    const { monitor } = this.gate
    const epoch = monitor.epoch()
    if (epoch === this.#allowedIn) return null
    const { host, port, tls } = this.flow
    const decision = monitor.decide({ kind: 'http.request', host, port, tls, method, path })
    if (decision.effect !== 'allow') return decision.reason
    this.#allowedIn = epoch
    return null
  }

  /** Counts bytes of the body, or says why they may not go. */
  charge(inbound: Inbound, bytes: number): string | null {
    return this.refusalNow(inbound) ?? this.meter.charge(bytes)
  }

  /** Sends the body, as far as it may go. */
  upload({ inbound, target }: Admitted, sink: UploadSink): void {
    this.#pump = new UploadPump(this.request, sink, {
      monitor: this.gate.monitor,
      charge: (bytes) => this.charge(inbound, bytes),
      cut: (reason) => this.refuse(refusal(reason, target.rule.id), inbound),
      moved: (bytes) => {
        this.touch()
        this.flow.moved(bytes, 0)
      },
    })
  }

  /** What is still to come of the body goes nowhere. */
  dropRest(): void {
    this.#pump?.stop()
    discard(this.request)
  }

  /** Asks again, now that the way out stands and before the head takes it. @throws UpstreamError */
  requireAdmitted(inbound: Inbound): void {
    const reason = this.refusalNow(inbound)
    if (reason !== null) throw new UpstreamError(reason)
  }

  /** The upstream connection in use. @throws when it cannot be recorded. */
  opened(dialled: Dialled | undefined, rule: string): void {
    this.flow.opened(dialled, rule)
  }

  /** What opens the answer's body on its way; null when nothing needs to. @throws Error when it cannot be opened */
  openerFor({ injection }: Admitted, encoding: string | undefined): Opener | null {
    this.#opener = this.gate.openers.for(injection, encoding, this.status)
    if (this.#over) this.#opener?.destroy()
    return this.#opener
  }

  /** Counts bytes of the answer, as the client gets them. */
  received({ inbound, target }: Admitted, bytes: number): void {
    this.bytesIn += bytes
    this.touch()
    this.flow.moved(0, bytes)
    if (this.#opener && isSwollen(this.#opener, this.bytesIn))
      this.refuse(refusal('upstream.swollen', target.rule.id), inbound)
  }

  /** Until `ms` from now something must happen. */
  expectWithin(ms: number): void {
    this.#patience = ms
    this.touch()
  }

  /** Something happened. */
  touch(): void {
    const now = performance.now()
    this.deadline = Math.min(now + this.#patience, this.#started + this.gate.monitor.deadlines.total)
  }

  expire(): void {
    if (!this.response.headersSent)
      this.refuse(refusal(this.gate.monitor.stopped ? 'session.stopped' : 'upstream.timeout'))
    else cut(this.response)
    this.finish()
  }

  /** More waits in this gate than may: ends the client's connection with all its requests, as it is what holds most. */
  crowded(): void {
    this.refuse(refusal('gate.too-much-waits'))
    if ('stream' in this.request) this.request.stream.session?.destroy()
    else if (this.request instanceof Readable) this.request.destroy()
    else cut(this.response)
  }

  /** Answers with a refusal, stops the upstream half and records it. */
  refuse(refused: Refusal, inbound?: Inbound): void {
    const first = !this.#over && !this.#denied
    this.#denied = true
    this.abort()
    this.#pump?.stop()
    if (first) this.#refused(refused, inbound)
  }

  #foreign(header: string, value: string, rule: NetworkRule, inbound: Inbound): null {
    const { host } = this.flow
    this.gate.monitor.note({ k: 'credential.foreign', host, header, fingerprint: fingerprint(value) })
    return this.#refused(refusal('credential.foreign', rule.id), inbound)
  }

  #refused(refused: Refusal, inbound?: Inbound): null {
    const { monitor } = this.gate
    const { host, port, id: flow } = this.flow
    const method = (inbound?.method ?? this.request.method ?? '').slice(0, 64)
    const path = refusedTarget(inbound?.target ?? this.request.url ?? '')
    const { reason, rule, status } = refused
    this.status = status
    monitor.denied(host, port, reason, rule)
    monitor.note({ k: 'http.denied', flow, method, host, port, path, reason, rule, status })
    // With a body still to come the connection cannot be used again; without one it can.
    const close = inbound === undefined || inbound.hasBody
    sendRefusal(this.response, refused, { profile: monitor.plan.profile.name, host }, close)
    discard(this.request)
    return null
  }

  /** Records the end, once. */
  finish(): void {
    if (this.#over) return
    this.#over = true
    this.gate.watch.delete(this)
    this.abort()
    if (this.#pump) this.dropRest()
    this.#opener?.destroy()
    if (this.id === 0) return
    const { id: request, status, bytesIn, scrubbed } = this
    const ms = Math.round(performance.now() - this.#started)
    const bytesOut = this.meter.sent
    this.gate.monitor.note({
      k: 'http.response',
      flow: this.flow.id,
      request,
      status,
      bytesOut,
      bytesIn,
      ms,
      scrubbed,
    })
  }
}

/** What no rule can allow. */
function contentRefusal(inbound: Inbound): string | null {
  if (inbound.hasBody && ['GET', 'HEAD', 'OPTIONS'].includes(inbound.method))
    return 'http.bodyless-method-body'
  for (let at = 0; at < inbound.raw.length; at += 2) {
    const name = inbound.raw[at] ?? ''
    if (name.length !== 6 && name.length !== 12) continue
    const lower = name.toLowerCase()
    if (lower !== 'accept' && lower !== 'content-type') continue
    if (/application\/dns-(?:message|json)/i.test(inbound.raw[at + 1] ?? '')) return 'http.dns-over-https'
  }
  return /^[^?]*\/dns-query(?:[?/]|$)|[?&]dns=/.test(inbound.target) ? 'http.dns-over-https' : null
}

/** Reads on without keeping anything, so that the client gets to its answer. */
function discard(body: ClientRequest): void {
  if ('divert' in body) body.divert(null)
  body.removeAllListeners('data')
  body.resume()
}
