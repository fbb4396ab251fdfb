/** Fuzzing of a running gate: inputs go over real sockets, and what came of them is asked of its records. */
import { type Finding, type Fuzzed, knownCrashes, mutate, type Random, xorshift } from './fuzz.ts'

export interface LiveTarget {
  readonly seeds: readonly Buffer[]
  /** Makes inputs of its own; otherwise seeds are mutated. */
  make?(random: Random): Buffer
  /** Sends a handful of inputs. Throws when a promise of the gate is broken. */
  run(inputs: readonly Buffer[]): Promise<void>
  /** Messages that got as far as a server or an answer: with none, a run has shown nothing. */
  reached(): number
  close(): Promise<void>
}

/** Inputs sent together; when they break something, each is tried alone. */
const BATCH = 24

/** Runs seeds, known crashes, then inputs until `milliseconds` have passed. */
export async function fuzzLive(
  name: string,
  target: LiveTarget,
  milliseconds: number,
  seed: number,
): Promise<Fuzzed> {
  const random = xorshift(seed)
  const corpus = [...target.seeds, ...knownCrashes(name)]
  const fresh = (): Buffer => (target.make && random(2) === 0 ? target.make(random) : mutate(corpus, random))
  let runs = 0
  let batch: Buffer[] = corpus
  const end = performance.now() + milliseconds
  do {
    runs += batch.length
    const finding = await tryBatch(target, batch)
    if (finding !== null) return { runs, finding }
    batch = Array.from({ length: BATCH }, fresh)
  } while (performance.now() < end)
  return { runs, finding: null }
}

async function tryBatch(target: LiveTarget, batch: readonly Buffer[]): Promise<Finding | null> {
  const together = await failure(target, batch)
  if (together === null) return null
  for (const input of batch) {
    const error = await failure(target, [input])
    if (error !== null) return { input, error }
  }
  // Only together: kept as one.
  return { input: Buffer.concat(batch), error: together }
}

async function failure(target: LiveTarget, inputs: readonly Buffer[]): Promise<unknown> {
  try {
    await target.run(inputs)
    return null
  } catch (error) {
    return error
  }
}

export function demand(holds: boolean, promise: string): void {
  if (!holds) throw new Error(`broken: ${promise}`)
}
