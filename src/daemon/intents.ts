/** Bursts of file writes (`file.intent`, decision 0004) of which a power cut may have taken records. */
import type { Fact } from '../audit/fact.ts'

/** A burst ends after half a second without a close (CALM in native/view/src/intent.rs); twice that is beyond doubt. */
const CALM_US = 1_000_000

interface Burst {
  /** Directory that all its files are beneath. */
  readonly path: string
  readonly files: number
  recorded: number
  /** Monotonic time of its latest record, microseconds. */
  latest: number
}

/**
 * What must be said of the bursts that were under way where `facts`, a session's view journal, ends: one sentence
 * each. Paths are the agent's.
 */
export function unfinishedBursts(facts: Iterable<Fact>): string[] {
  let open: Burst[] = []
  for (const fact of facts) {
    // The journal is in order: what follows a pause proves that the burst before it has all its records.
    open = open.filter(({ latest }) => fact.m - latest < CALM_US)
    if (fact.k === 'file.intent') {
      const { path, files, m } = fact
      // One burst at a time for each root; the next one's directory is the same or one above.
      open = open.filter((burst) => burst.path !== path && !beneath(burst.path, path))
      open.push({ path, files, recorded: 0, latest: m })
    }
    if (fact.k === 'file.write') {
      const burst = open.find(({ path }) => beneath(fact.path, path))
      if (burst) Object.assign(burst, { recorded: burst.recorded + 1, latest: fact.m })
    }
  }
  return open
    .filter(({ files, recorded }) => recorded < files)
    .map(
      ({ path, files, recorded }) =>
        `files beneath ${path} were being written: ${recorded} are recorded by name, up to ${files - recorded} more may have been written`,
    )
}

const beneath = (path: string, dir: string): boolean => path.startsWith(dir.endsWith('/') ? dir : `${dir}/`)
