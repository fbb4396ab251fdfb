/** What the compiled plan leaves open, `data.ambit.runtime.decision` decides, once per question, never per byte. */
import * as z from 'zod'
import type { Paths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import type { NetworkRule, Plan } from '../profile/plan.ts'
import { type Action, type Decision, deny, type SessionState } from './decision.ts'
import { openPolicies } from './engine.ts'
import { planFacts } from './facts.ts'

export interface OpenQuestion {
  /** Where something goes. Neither method nor path: answers are kept for more than one request (gate/judge.ts). */
  readonly action: {
    readonly kind: Exclude<Action['kind'], 'dns.query'>
    readonly host: string
    readonly port: number
    readonly tls: boolean
  }
  /** The rule that the plan found; null when none did. */
  readonly rule: NetworkRule | null
  readonly state: SessionState
  /** Facts that only the session knows. */
  readonly session: {
    /** Something untrusted was read: a web page, a mail, a download. */
    readonly untrusted: boolean
    /** This destination was not used before in the session. */
    readonly newDestination: boolean
    /** What a person approved for the session, e.g. `destination:api.example.com`. */
    readonly approvals: readonly string[]
  }
}

const answer = z.strictObject({
  effect: z.enum(['allow', 'deny', 'ask']),
  reason: z.string().min(1).max(200),
})

/**
 * Opens the runtime policy of a session; modules are read once, as they are when the session starts.
 *
 * @throws AmbitError ERR_POLICY_INVALID
 */
export function openRuntimePolicy(plan: Plan, paths: Paths): (question: OpenQuestion) => Decision {
  const engine = openPolicies(paths)
  // Most of the document, and the same all session.
  engine.keepInput('profile', JSON.stringify(planFacts(plan)))
  return (question) => {
    const rule = question.rule?.id ?? null
    let json: string | null
    try {
      json = engine.evalRule('data.ambit.runtime.decision', JSON.stringify(runtimeDocument(question)))
    } catch {
      return deny('policy.failed', rule)
    }
    if (json === null) return deny('policy.undefined', rule)
    const parsed = answer.safeParse(JSON.parse(json))
    if (!parsed.success) return deny('policy.malformed-decision', rule)
    return { effect: parsed.data.effect, reason: printable(parsed.data.reason), rule, obligations: [] }
  }
}

/** @internal the document as Rego sees it, but for `profile`. */
export function runtimeDocument(question: OpenQuestion) {
  const { action, rule, state, session } = question
  return {
    action,
    rule: rule && { id: rule.id, host: rule.host, clearance: rule.clearance, inspect: rule.inspect },
    session: {
      label: state.label,
      untrusted: session.untrusted,
      new_destination: session.newDestination,
      approvals: session.approvals,
    },
  }
}
