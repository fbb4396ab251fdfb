/** What is said about one refusal (remedy.ts), and what it is said from. */
import type { Fact } from '../audit/fact.ts'

export const RISKS = ['high', 'medium', 'low'] as const
type Risk = (typeof RISKS)[number]

export interface Change {
  /** Where in the profile's `spec`: `network`, `network[0].paths`, `files[1]`, `upload`. */
  readonly place: string
  /** One line of YAML. `- …` goes to the end of the list at `place`; `key: value` is set in the map there. */
  readonly yaml: string
}

export interface Advice {
  /** All of them together allow it; none: no change to the profile is suggested, `advice` says why. */
  readonly changes: readonly Change[]
  /** Null without a change. */
  readonly risk: Risk | null
  /** One sentence. */
  readonly advice: string
}

/** Equal refusals, and requests that one change would allow together. Text is raw and attacker-controlled. */
export interface Attempt {
  readonly first: Fact
  count: number
  /** When it was last refused, as `Fact.m`. */
  last: number
  readonly methods: Set<string>
  readonly paths: Set<string>
  readonly ports: Set<number>
  /** True when there were more paths than are kept. */
  cut: boolean
}

/** No change is suggested, and why. */
export const none = (advice: string): Advice => ({ changes: [], risk: null, advice })
