/**
 * What a person could change about each refusal of a session: the place in the profile and the smallest change there,
 * or why there is none. Pure. Nothing is ever applied by itself.
 *
 * Whoever obeys an attacker chooses what is refused, so these are requests of the attacker's: every change carries a
 * risk, and what cannot be written down to the letter is not suggested (remedy-yaml.ts).
 */
import type { Fact } from '../audit/fact.ts'
import { printable } from '../lib/printable.ts'
import { LABELS, type Label, type Plan } from '../profile/plan.ts'
import { unavailableCommand } from '../runtime/unavailable.ts'
import { type Advice, type Attempt, none } from './advice.ts'
import { adviseFile } from './remedy-files.ts'
import { adviseNetwork } from './remedy-network.ts'
import { adviseLimit, limitOf } from './remedy-limits.ts'
import { type Refusal, refusalOf } from './summary.ts'

/** One thing that was refused, once or often. All its text is safe to show. */
export interface Remedy extends Advice {
  /** `file`, `network`, `dns`, `http`, `credential`, `process`, `command`, `limit`, or the action of a policy's decision. */
  readonly kind: string
  readonly target: string
  readonly reason: string
  /** The rule that refused: its place in the profile, or the list of Ambit's own; null when none matched. */
  readonly rule: string | null
  readonly count: number
}

const refused = (fact: Fact): Refusal | null => refusalOf(fact) ?? limitOf(fact)

const MOST_ATTEMPTS = 1000
const MOST_PATHS = 20
const MOST_METHODS = 10
const MOST_PORTS = 8

/** Folds the facts of a session, in any order of journals, into remedies. */
export class RemedyFold {
  readonly #plan: Plan | null
  readonly #attempts = new Map<string, Attempt>()
  #label: Label = 'public'

  /** @param plan of the session; null when it is not kept, and then no change can be named. */
  constructor(plan: Plan | null) {
    this.#plan = plan
  }

  add(fact: Fact): void {
    if (fact.k === 'file.open' && LABELS.indexOf(fact.label) > LABELS.indexOf(this.#label)) {
      this.#label = fact.label
    }
    if (refused(fact) === null) return
    const key = keyOf(fact)
    const attempt = this.#attempts.get(key) ?? newAttempt(fact)
    if (!this.#attempts.has(key)) {
      if (this.#attempts.size >= MOST_ATTEMPTS) return
      this.#attempts.set(key, attempt)
    }
    attempt.count += fact.k === 'file.denied' ? (fact.count ?? 1) : 1
    attempt.last = Math.max(attempt.last, fact.m)
    if (fact.k === 'http.denied' || fact.k === 'net.denied') {
      if (attempt.ports.size < MOST_PORTS) attempt.ports.add(fact.port)
    }
    if (fact.k === 'http.denied') keepRequest(attempt, fact)
  }

  /** Newest last. */
  result(): Remedy[] {
    const attempts = [...this.#attempts.values()].toSorted((a, b) => a.last - b.last)
    const asked = new Set(attempts.map(({ first }) => requestedHost(first)))
    return attempts
      .filter(({ first }) => !asked.has(unmatchedHost(first) ?? ''))
      .map((attempt) => remedyOf(attempt, this.#plan, this.#label))
  }
}

const newAttempt = (first: Fact): Attempt => ({
  first,
  count: 0,
  last: 0,
  methods: new Set(),
  paths: new Set(),
  ports: new Set(),
  cut: false,
})

function keepRequest(attempt: Attempt, fact: Extract<Fact, { k: 'http.denied' }>): void {
  if (attempt.methods.size < MOST_METHODS) attempt.methods.add(fact.method)
  // The query is never part of a rule, and may hold what should not stand in a profile.
  const path = fact.path.replace(/\?.*/s, '')
  if (attempt.paths.size < MOST_PATHS) attempt.paths.add(path)
  else if (!attempt.paths.has(path)) attempt.cut = true
}

/** Equal keys: one remedy. */
function keyOf(fact: Fact): string {
  // Changes to one list belong together: two of them would undo each other.
  if ((fact.k === 'http.denied' || fact.k === 'net.denied') && fact.reason === 'network.port-not-allowed')
    return JSON.stringify([fact.reason, fact.rule])
  switch (fact.k) {
    case 'http.denied':
      if (fact.reason === 'network.method-not-allowed' || fact.reason === 'network.path-not-allowed')
        return JSON.stringify([fact.k, fact.rule])
      return JSON.stringify([fact.k, fact.reason, fact.host, fact.port])
    case 'file.denied':
      // One change to the root, or to the whole session, answers all of them.
      return fact.reason === 'read-only' || fact.reason === 'quota'
        ? JSON.stringify([fact.k, fact.reason, fact.rule])
        : JSON.stringify([fact.k, fact.reason, fact.path])
    default: {
      const refusal = refused(fact)
      return JSON.stringify([fact.k, refusal?.reason, refusal?.target])
    }
  }
}

const UNMATCHED = 'network.no-matching-rule'
const requestedHost = (fact: Fact): string | null =>
  (fact.k === 'http.denied' && fact.reason === UNMATCHED && fact.host !== '') ||
  (fact.k === 'net.denied' && /^net\.(?:unknown-protocol|silent|protocol-)/.test(fact.reason))
    ? fact.host
    : null

/** The name of a refused query or connection that a refused request to the same host says more about. */
function unmatchedHost(fact: Fact): string | undefined {
  if (fact.k === 'dns.query' && fact.reason === UNMATCHED) return fact.name
  return fact.k === 'net.denied' && fact.reason === UNMATCHED ? fact.host : undefined
}

function remedyOf(attempt: Attempt, plan: Plan | null, label: Label): Remedy {
  const refusal = refused(attempt.first)
  const { advice, rule } = adviceFor(attempt, plan, label)
  const place = rule ?? refusal?.rule ?? null
  return {
    kind: refusal?.kind ?? attempt.first.k,
    target: printable(targetOf(attempt.first, refusal?.target ?? ''), 300),
    reason: printable(refusal?.reason ?? '', 120),
    rule: place === null ? null : printable(place, 120),
    count: attempt.count,
    ...advice,
  }
}

/** With the port where it matters, and without the query: it may hold what nobody should read later. */
function targetOf(fact: Fact, told: string): string {
  if (fact.k !== 'http.denied') return told
  return `${fact.method} ${fact.host}${fact.port === 443 ? '' : `:${fact.port}`}${fact.path.replace(/\?.*/s, '?…')}`
}

const NEVER_BEGAN = 'The session never began; what ambit run said then names the reason and what to do.'
/** Of sessions that were refused before they began, by the code of the error. */
const UNSTARTED: Readonly<Record<string, string>> = {
  ERR_SHEET_REFUSED:
    'Nobody accepted the grant sheet: answer y at a terminal, or accept it with --yes (ambit explain shows it).',
  ERR_APPROVAL_REQUIRED: 'A person must approve it: start it at a terminal.',
  ERR_POLICY_DENIED: "The organisation's policy refuses this profile here: see ambit policy.",
}

/** The advice, and the rule where it is known better than the enforcement point knew it. */
function adviceFor(
  attempt: Attempt,
  plan: Plan | null,
  label: Label,
): { advice: Advice; rule: string | null } {
  const fact = attempt.first
  if (fact.k === 'decision' && fact.action === 'session.start')
    return { advice: none(UNSTARTED[fact.reason] ?? NEVER_BEGAN), rule: null }
  if (plan === null) return { advice: none(NEVER_BEGAN), rule: null }
  switch (fact.k) {
    case 'file.denied':
      return adviseFile(fact, plan)
    case 'http.denied':
    case 'net.denied':
    case 'dns.query':
      return { advice: adviseNetwork(fact, attempt, plan, label), rule: null }
    case 'credential.foreign':
      return {
        advice: none('The key is not of this session: remove it and use the one from the environment.'),
        rule: null,
      }
    case 'session.end':
      return { advice: adviseLimit(fact, plan), rule: null }
    case 'process.launch':
      return { advice: none(unavailableCommand(fact.path)?.advice ?? ''), rule: null }
    default:
      return {
        advice: none('Not the profile but the policy or the sandbox refused it; see ambit log.'),
        rule: null,
      }
  }
}
