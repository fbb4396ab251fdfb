/** May this user, device, agent and profile meet at all? `data.ambit.admission.decision` says. */
import * as z from 'zod'
import { AmbitError, messageOf } from '../lib/errors.ts'
import type { Paths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import { type Plan, RUNTIMES, type RuntimeName } from '../profile/plan.ts'
import { openPolicies, policyMessage } from './engine.ts'
import { planFacts } from './facts.ts'

export interface AdmissionInput {
  readonly user: { readonly name: string; readonly uid: number }
  readonly device: { readonly hostname: string; readonly os: string }
  /** Names and versions come from package files, which the agent's publisher wrote; only the digest proves anything. */
  readonly agent: {
    readonly name: string
    readonly version: string | null
    readonly digest: string | null
    readonly path: string
  }
  readonly plan: Plan
  /** The sheet is accepted on the command line (`--yes`). */
  readonly accepted: boolean
}

export interface Admission {
  readonly effect: 'allow' | 'deny'
  /** Stable reason codes, sorted; printable. */
  readonly reasons: readonly string[]
  /** The least isolation that policy accepts; null leaves it to the profile. */
  readonly runtime: RuntimeName | null
  /** Each runtime that a rule asks for as the least, and why. */
  readonly raised: readonly Raised[]
  /** `terminal`: only a person at a terminal may accept the sheet, never `--yes`. */
  readonly acceptance: 'terminal' | null
}

/** One rule's least runtime. */
export interface Raised {
  readonly runtime: RuntimeName
  /** Stable reason code, e.g. `label.regulated`; printable. */
  readonly reason: string
}

const RULE = 'data.ambit.admission.decision'

const answer = z.strictObject({
  effect: z.enum(['allow', 'deny']),
  reasons: z.array(z.string().max(500)).max(100),
  runtime: z.enum(RUNTIMES).nullable(),
  raised: z.array(z.strictObject({ runtime: z.enum(RUNTIMES), reason: z.string().min(1).max(500) })).max(100),
  acceptance: z.literal('terminal').nullable(),
})

/**
 * An undefined, failing or malformed answer denies.
 *
 * @throws AmbitError ERR_POLICY_INVALID when the modules cannot be loaded.
 */
export function decideAdmission(input: AdmissionInput, paths: Paths): Admission {
  const engine = openPolicies(paths)
  let json: string | null
  try {
    json = engine.evalRule(RULE, JSON.stringify(admissionDocument(input)))
  } catch (error) {
    return denied(`policy.failed: ${policyMessage(error)}`)
  }
  return json === null ? denied('policy.undefined') : parseAnswer(json)
}

/** @internal the document as Rego sees it; the OPA comparison feeds both engines with it. */
export function admissionDocument(input: AdmissionInput) {
  const { user, device, agent, plan, accepted } = input
  return { user, device, agent, profile: planFacts(plan), session: { accepted } }
}

function parseAnswer(json: string): Admission {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch (error) {
    throw new AmbitError('ERR_INTERNAL', RULE, messageOf(error), undefined, { cause: error })
  }
  const parsed = answer.safeParse(value)
  if (!parsed.success) return denied('policy.malformed-decision')
  const reasons = parsed.data.reasons.map((reason) => printable(reason))
  // "allow" with reasons against is no answer.
  if (parsed.data.effect === 'allow' && reasons.length > 0) return denied('policy.malformed-decision')
  const raised = parsed.data.raised.map(({ runtime, reason }) => ({ runtime, reason: printable(reason) }))
  return { ...parsed.data, reasons, raised }
}

const denied = (reason: string): Admission => ({
  effect: 'deny',
  reasons: [reason],
  runtime: null,
  raised: [],
  acceptance: null,
})
