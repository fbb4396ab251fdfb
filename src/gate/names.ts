/** Names of the session: each has one synthetic address for as long as the session lives. */
import { type Host, isAddress } from '../lib/host.ts'
import type { NetworkRule, Plan } from '../profile/plan.ts'
import { matchesHost } from '../lib/host.ts'

/** Refused names have addresses too, so that the refusal is a readable 403; this bounds what that costs. */
const MOST_REFUSED = 4096
/** Different names that one wildcard may cover in a session: each is a message to whoever serves the zone (N-05). */
const MOST_PER_WILDCARD = 128
const MOST_WILDCARD_LABELS = 3
const LONGEST_WILDCARD_LABEL = 40
const LONGEST_WILDCARD_PART = 63

export type Binding =
  | {
      readonly kind: 'admitted' | 'refused'
      readonly address: string
      readonly reason: string | null
      readonly rule: string | null
    }
  | { readonly kind: 'none'; readonly reason: string }

/** Binds names to synthetic addresses, for as long as the session lives. */
export class NameBook {
  readonly #plan: Plan
  readonly #bindings = new Map<string, Extract<Binding, { address: string }>>()
  readonly #names = new Map<string, Host>()
  readonly #perRule = new Map<string, number>()
  #refused = 0
  #next = (21 << 24) >>> 0

  constructor(plan: Plan) {
    this.#plan = plan
  }

  /** The name that a synthetic address stands for. */
  nameOf(address: string): Host | undefined {
    return this.#names.get(address)
  }

  /** Why a bound name may not be used although a rule matches it. */
  limitOf(name: string): string | null {
    const reason = this.#bindings.get(name)?.reason ?? null
    return reason === 'dns.wildcard-limit' ? reason : null
  }

  /** Binds `name` for the session; nothing is asked of anybody outside. */
  bind(name: Host): Binding {
    const known = this.#bindings.get(name)
    if (known) return known
    const refused = this.#refusal(name)
    if (refused !== null && ++this.#refused > MOST_REFUSED)
      return { kind: 'none', reason: 'dns.too-many-names' }
    const rule = this.#ruleOf(name)?.id ?? null
    const address = this.#allocate()
    const binding = {
      kind: refused === null ? 'admitted' : 'refused',
      address,
      reason: refused,
      rule,
    } as const
    this.#bindings.set(name, binding)
    this.#names.set(address, name)
    return binding
  }

  #ruleOf(name: string): NetworkRule | undefined {
    return this.#plan.network.find((rule) => rule.ports.length > 0 && matchesHost(rule.host, name))
  }

  #refusal(name: Host): string | null {
    if (isAddress(name)) return 'network.no-matching-rule'
    const rule = this.#ruleOf(name)
    if (!rule) return 'network.no-matching-rule'
    if (!rule.host.startsWith('*.')) return null
    const part = name.slice(0, name.length - rule.host.length + 1)
    const count = (this.#perRule.get(rule.id) ?? 0) + 1
    if (count > MOST_PER_WILDCARD || carriesData(part)) return 'dns.wildcard-limit'
    this.#perRule.set(rule.id, count)
    return null
  }

  /** 21.0.0.1 upwards; never an address that ends in .0 or .255, which some programs take for a network's. */
  #allocate(): string {
    do this.#next++
    while ((this.#next & 0xff) === 0 || (this.#next & 0xff) === 0xff)
    const n = this.#next
    return `${n >>> 24}.${(n >>> 16) & 0xff}.${(n >>> 8) & 0xff}.${n & 0xff}`
  }
}

export const isSynthetic = (address: string): boolean => address.startsWith('21.')

/** Whether the part of a name that a wildcard stands for looks like a message rather than a name (N-05). */
export function carriesData(part: string): boolean {
  const labels = part.split('.')
  if (labels.length > MOST_WILDCARD_LABELS || part.length > LONGEST_WILDCARD_PART) return true
  return labels.some(
    (label) => label.length > LONGEST_WILDCARD_LABEL || (label.length >= 24 && entropy(label) > 3.9),
  )
}

/** Shannon entropy, bits per character. */
function entropy(text: string): number {
  const counts = new Map<string, number>()
  for (const char of text) counts.set(char, (counts.get(char) ?? 0) + 1)
  let bits = 0
  for (const count of counts.values()) bits -= (count / text.length) * Math.log2(count / text.length)
  return bits
}
