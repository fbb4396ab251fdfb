/**
 * The second question, where the plan said yes but facts of the session bear on it: the runtime policy (Rego) judges
 * each destination when it is new and whenever the session's label or integrity changes. Never per byte, never per
 * request: answers are kept until one of those facts changes.
 */
import type { Action, Decision, SessionState } from '../policy/decision.ts'
import type { OpenQuestion } from '../policy/runtime.ts'
import type { NetworkRule, Plan } from '../profile/plan.ts'

export type RuntimePolicy = (question: OpenQuestion) => Decision
export type OutboundAction = Exclude<Action, { kind: 'dns.query' }>

/** Distinct answers kept; hosts under a wildcard are the attacker's to invent. */
const MOST_ANSWERS = 4096

/** Asks the runtime policy about destinations that the plan allows, and keeps its answers while they hold. */
export class Judge {
  readonly #plan: Plan
  readonly #policy: RuntimePolicy
  readonly #used = new Set<string>()
  readonly #answers = new Map<string, Decision>()
  #untrusted = false
  #turns = 0

  constructor(plan: Plan, policy: RuntimePolicy) {
    this.#plan = plan
    this.#policy = policy
  }

  /** `allowed` is the plan's decision; what comes back is never more than it. */
  judge(action: OutboundAction, allowed: Decision, state: SessionState): Decision {
    const newDestination = !this.#used.has(action.host)
    // Everything that the policy is shown (policy/runtime.ts): an answer holds for nothing else.
    const { kind, host, port, tls } = action
    const key = `${allowed.rule} ${kind} ${host} ${port} ${tls} ${state.label} ${this.#untrusted} ${newDestination}`
    let answer = this.#answers.get(key)
    if (!answer) {
      const rule = this.#plan.network.find((candidate) => candidate.id === allowed.rule) ?? null
      const session = { untrusted: this.#untrusted, newDestination, approvals: [] }
      answer = this.#policy({ action: { kind, host, port, tls }, rule, state, session })
      if (this.#answers.size >= MOST_ANSWERS) this.#answers.clear()
      this.#answers.set(key, answer)
    }
    return answer.effect === 'allow' ? allowed : { ...answer, rule: allowed.rule }
  }

  /** Counts what changes answers beside label and stop: a destination that was new, content that is not trusted. */
  get turns(): number {
    return this.#turns
  }

  /**
   * A request goes out under `rule`. What a host answers that holds none of the user's credentials is the open web:
   * from here on the session has seen untrusted content.
   */
  sent(host: string, rule: Pick<NetworkRule, 'credential'> | undefined): void {
    const untrusted = this.#untrusted || !rule?.credential
    if (untrusted === this.#untrusted && this.#used.has(host)) return
    this.#used.add(host)
    this.#untrusted = untrusted
    this.#turns++
  }
}
