/** The gate's side of the one door: ask, record, make durable. Fails closed, and stays closed. */
import type { FactBody } from '../audit/fact.ts'
import { decide } from '../policy/decide.ts'
import type { Action, Decision, SessionState } from '../policy/decision.ts'
import type { Label } from '../profile/plan.ts'
import { withDeadline } from './deadline.ts'
import { Judge } from './judge.ts'
import type { Deadlines, GateOptions, HostTotals, Totals } from './options.ts'

type Options = Pick<GateOptions, 'plan' | 'record' | 'barrier' | 'state' | 'stopped' | 'onDenied' | 'policy'>

/** Hosts counted apart: names are the attacker's, memory is ours. */
const MOST_HOSTS = 1000

/** When all that is ready has been read: requests that came together share one barrier, not the first one and the rest. */
const endOfTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Every question and every record of the gate goes through here. */
export class Monitor {
  readonly plan: Options['plan']
  readonly deadlines: Deadlines
  readonly #options: Options
  readonly #byHost = new Map<string, HostTotals>()
  readonly #waiting = new Set<() => void>()
  readonly #judge: Judge | null
  #paused: string | null = null
  #broken: string | null = null
  /** Settles with the barrier under way. */
  #current: Promise<void> = Promise.resolve()
  /** The barrier that starts after it. */
  #next: Promise<void> | null = null
  #last: SessionState = { label: 'public', stopped: null }
  #changes = 0
  #flows = 0
  #requests = 0
  #denied = 0

  constructor(options: Options, deadlines: Deadlines) {
    this.plan = options.plan
    this.deadlines = deadlines
    this.#options = options
    this.#judge = options.policy ? new Judge(options.plan, options.policy) : null
  }

  /** The plan's decision, and for what goes out the runtime policy's on top of it. */
  decide(action: Action): Decision {
    const state = this.#seen(this.state())
    const decision = decide(action, this.plan, state)
    if (decision.effect !== 'allow' || action.kind === 'dns.query') return decision
    return this.#judge?.judge(action, decision, state) ?? decision
  }

  /**
   * Another number whenever `decide` may answer otherwise than before. The session is asked as for a decision; while
   * the number stays, a decision holds, so that the pieces of a body need no new one each.
   */
  epoch(): number {
    this.#seen(this.state())
    return this.decidedIn
  }

  /** The epoch of the last decision, or of the last `epoch` if that came later. The session is not asked. */
  get decidedIn(): number {
    return this.#changes + (this.#judge?.turns ?? 0)
  }

  #seen(state: SessionState): SessionState {
    const { label, stopped } = state
    if (label !== this.#last.label || stopped !== this.#last.stopped) {
      this.#last = { label, stopped }
      this.#changes++
    }
    return state
  }

  /** The session's state; stopped as well when the gate is paused or could not record something. */
  state(): SessionState {
    const state = this.#session()
    const stopped = this.#broken ?? this.#paused ?? state.stopped
    return stopped === state.stopped ? state : { label: state.label, stopped }
  }

  get stopped(): boolean {
    if (this.#broken !== null || this.#paused !== null) return true
    return this.#options.stopped?.() ?? this.#session().stopped !== null
  }

  /** The session's label as the last decision saw it. */
  get label(): Label {
    return this.#last.label
  }

  /** A state that cannot be told is the worst one, and the gate stays closed. */
  #session(): SessionState {
    try {
      return this.#options.state()
    } catch {
      this.#broken ??= 'the state of the session is not known'
      return { label: 'regulated', stopped: this.#broken }
    }
  }

  pause(reason: string): void {
    this.#paused = reason
  }

  resume(): void {
    this.#paused = null
    this.release()
  }

  /** Calls `again` once, when the session is no longer stopped. Returns what forgets it. */
  whenRunning(again: () => void): () => void {
    this.#waiting.add(again)
    return () => this.#waiting.delete(again)
  }

  /** Lets held streams go on when nothing is stopped any more. */
  release(): void {
    if (this.#waiting.size === 0 || this.stopped) return
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const again of waiting) again()
  }

  /** @throws what the journal threw; from then on nothing goes out. */
  record(fact: FactBody): void {
    if (fact.k === 'http.request') this.#judge?.sent(fact.host, fact)
    try {
      this.#options.record(fact)
    } catch (error) {
      this.#broken ??= 'a record could not be written'
      throw error
    }
  }

  /** Records what cannot be undone any more (an end, a refusal): a failure stops what comes next, not this. */
  note(fact: FactBody): void {
    try {
      this.record(fact)
    } catch {
      // `record` has closed the gate; the supervisor learns of the journal's death from the journal.
    }
  }

  /**
   * Waits until everything recorded before the call is durable. Callers that come while one barrier is on its way
   * share the next: one barrier and one timer for all of them.
   *
   * @throws when that fails or takes too long; a late success has no effect.
   */
  commit(): Promise<void> {
    if (this.#next) return this.#next
    const next = this.#commitAfter(this.#current)
    this.#next = next
    this.#current = next
    return next
  }

  async #commitAfter(before: Promise<void>): Promise<void> {
    try {
      await before
    } catch {
      // Each says for itself what became of it.
    }
    await endOfTurn()
    this.#next = null
    await withDeadline(this.#options.barrier(), this.deadlines.barrier)
  }

  flow(): number {
    return ++this.#flows
  }

  request(host: string): number {
    this.#host(host).requests++
    return ++this.#requests
  }

  traffic(host: string, bytesOut: number, bytesIn: number): void {
    const totals = this.#host(host)
    totals.bytesOut += bytesOut
    totals.bytesIn += bytesIn
  }

  /** Counts a refusal and tells whoever listens; the fact is recorded by the caller. */
  denied(host: string, port: number, reason: string, rule: string | null): void {
    this.#denied++
    this.#host(host).denied++
    this.#options.onDenied?.({ host, port, reason, rule })
  }

  totals(): Totals {
    let bytesOut = 0
    let bytesIn = 0
    for (const host of this.#byHost.values()) {
      bytesOut += host.bytesOut
      bytesIn += host.bytesIn
    }
    const counts = { flows: this.#flows, requests: this.#requests, denied: this.#denied }
    return { ...counts, bytesOut, bytesIn, byHost: this.#byHost }
  }

  #host(name: string): HostTotals {
    const known = this.#byHost.get(name)
    if (known) return known
    if (this.#byHost.size >= MOST_HOSTS && name !== '(other)') return this.#host('(other)')
    const fresh = { requests: 0, denied: 0, bytesOut: 0, bytesIn: 0 }
    this.#byHost.set(name, fresh)
    return fresh
  }
}
