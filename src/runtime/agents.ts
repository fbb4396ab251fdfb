import type { Agent } from './closure.ts'

/** What Ambit knows about one agent program, so that it runs unchanged inside. */
export interface Adapter {
  readonly title: string
  /** Environment inside. */
  readonly env: Readonly<Record<string, string>>
  /** Read-only files inside, by absolute path. The agent's own home is never written to: it is the agent's. */
  readonly files: Readonly<Record<string, string>>
  /** Written once, when the home is made; path relative to the home. */
  readonly seeds: Readonly<Record<string, string>>
  /** For the grant sheet: what was switched, in plain words. */
  readonly notes: readonly string[]
}

const NONE: Adapter = { title: '', env: {}, files: {}, seeds: {}, notes: [] }

/** The adapter of a known agent; an unknown program gets one that changes nothing. */
export function adapterFor(agent: Pick<Agent, 'name' | 'executable'>): Adapter {
  return NONE
}
