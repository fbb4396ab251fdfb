/** What of a running session changes and bears on decisions. One writer: the supervisor. */
import type { SessionState } from '../policy/decision.ts'
import { LABELS, type Label } from '../profile/plan.ts'

/** What changes while a session runs and every decision asks for: its label, and who has stopped it. */
export class LiveState {
  #label: Label = 'public'
  readonly #stops = new Map<string, string>()

  /** Nothing goes out while any stop holds. `key` names who stopped it (`freeze`, `daemon`, `journal`). */
  stop(key: string, reason: string): void {
    this.#stops.set(key, reason)
  }

  resume(key: string): void {
    this.#stops.delete(key)
  }

  get stopped(): boolean {
    return this.#stops.size > 0
  }

  raiseLabel(label: Label): void {
    if (LABELS.indexOf(label) > LABELS.indexOf(this.#label)) this.#label = label
  }

  snapshot(): SessionState {
    return { label: this.#label, stopped: this.#stops.values().next().value ?? null }
  }
}
