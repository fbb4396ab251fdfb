import { matchesHost } from '../lib/host.ts'
import { isPlainPath, matchesPath, pathOf } from '../lib/url-path.ts'
import { LABELS, type NetworkRule, type Plan } from '../profile/plan.ts'
import { type Action, type Decision, deny, type Obligation, type SessionState } from './decision.ts'

/**
 * Decides one action. Pure: the same action, plan and state give the same decision, at any time and on any machine.
 *
 * Hosts, methods and paths are attacker-controlled and canonical (lib/host.ts); they are compared, never expanded.
 * Nothing matches by default: no rule, no way.
 */
export function decide(action: Action, plan: Plan, state: SessionState): Decision {
  if (state.stopped !== null) return deny('session.stopped')
  switch (action.kind) {
    case 'dns.query':
      return decideName(action.name, plan)
    case 'net.connect':
      return decideByRule(plan, (rule) => connectRefusal(rule, action, state))
    case 'http.request':
      return decideByRule(plan, (rule) => requestRefusal(rule, action, state))
  }
}

type Request = Extract<Action, { kind: 'http.request' }>
type Connect = Pick<Request, 'host' | 'port' | 'tls'>

/** A name is admitted when some rule could admit a request to it. */
function decideName(name: string, plan: Plan): Decision {
  const rule = plan.network.find((rule) => rule.ports.length > 0 && matchesHost(rule.host, name))
  return rule ? allow(rule, []) : deny('network.no-matching-rule')
}

/**
 * Reasons by which a rule may fail, in the order they are checked. The refusal reported is that of the rule that came
 * closest: "this method is not allowed" helps a person more than "no rule".
 */
const CLOSENESS = [
  'network.no-matching-rule',
  'network.port-not-allowed',
  'network.plain-not-allowed',
  'network.raw-only',
  'network.clearance-exceeded',
  'credential.plain',
  'http.method-unknown',
  'network.method-not-allowed',
  'network.path-spelling',
  'network.path-not-allowed',
] as const
type Refusal = (typeof CLOSENESS)[number]

function decideByRule(plan: Plan, refusalOf: (rule: NetworkRule) => Refusal | null): Decision {
  let closest: Refusal = 'network.no-matching-rule'
  let closestRule: string | null = null
  for (const rule of plan.network) {
    const refusal = refusalOf(rule)
    if (refusal === null) return allow(rule, obligations(rule, plan))
    if (CLOSENESS.indexOf(refusal) > CLOSENESS.indexOf(closest)) {
      closest = refusal
      closestRule = rule.id
    }
  }
  return deny(closest, closestRule)
}

function connectRefusal(rule: NetworkRule, action: Connect, state: SessionState): Refusal | null {
  if (!matchesHost(rule.host, action.host)) return 'network.no-matching-rule'
  if (!rule.ports.includes(action.port)) return 'network.port-not-allowed'
  if (!action.tls && !rule.plain && !rule.raw) return 'network.plain-not-allowed'
  if (LABELS.indexOf(state.label) > LABELS.indexOf(rule.clearance)) return 'network.clearance-exceeded'
  // A credential never crosses a wire in the clear (N-33).
  if (!action.tls && rule.credential !== null) return 'credential.plain'
  return null
}

/** Methods every server knows. Others only where a rule names them; TRACE, TRACK and CONNECT never (N-30). */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])
const NEVER = new Set(['TRACE', 'TRACK', 'CONNECT'])

function requestRefusal(rule: NetworkRule, action: Request, state: SessionState): Refusal | null {
  const connect = connectRefusal(rule, action, state)
  if (connect !== null) return connect
  // What passes there is read by nobody, so no request may claim that it was.
  if (rule.raw) return 'network.raw-only'
  const named = rule.methods?.includes(action.method) ?? false
  if (NEVER.has(action.method) || (!named && !METHODS.has(action.method))) return 'http.method-unknown'
  if (rule.methods !== null && !named) return 'network.method-not-allowed'
  if (rule.paths === null) return null
  const path = pathOf(action.path)
  if (!isPlainPath(path)) return 'network.path-spelling'
  return rule.paths.some((glob) => matchesPath(glob, path)) ? null : 'network.path-not-allowed'
}

const perRule = new WeakMap<NetworkRule, readonly Obligation[]>()

function obligations(rule: NetworkRule, plan: Plan): readonly Obligation[] {
  let list = perRule.get(rule)
  if (!list) {
    list = [{ kind: 'count-upload', perRequest: plan.upload.perRequest }]
    if (rule.inspect) list = [...list, { kind: 'inspect' }]
    if (rule.credential !== null) list = [...list, { kind: 'inject', credential: rule.credential }]
    perRule.set(rule, list)
  }
  return list
}

const allow = (rule: NetworkRule, list: readonly Obligation[]): Decision => ({
  effect: 'allow',
  reason: 'network.rule',
  rule: rule.id,
  obligations: list,
})
