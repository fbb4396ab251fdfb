/**
 * Paired measurement: in each round every contender runs once, in a rotating order, so that noise of the machine hits
 * all of them alike. Ratios are taken within a round and only then summarised.
 */
import { messageOf } from '../src/lib/errors.ts'

/** Something that can be measured. `measure` resolves with the values of one round, one for each column. */
export interface Contender {
  readonly name: string
  readonly measure: () => Promise<readonly number[]>
}

/** The values of one contender, index = round; or why there are none. */
export type Series =
  | { readonly name: string; readonly values: readonly number[] }
  | { readonly name: string; readonly failure: string }

/** What `paired` measured, by contender. */
export type Results = readonly (
  | { readonly name: string; readonly rounds: readonly (readonly number[])[] }
  | { readonly name: string; readonly failure: string }
)[]

export interface Spread {
  readonly p10: number
  readonly p50: number
  readonly p90: number
  readonly n: number
}

/** For a shorter run. */
const MOST_ROUNDS = Number(process.env.AMBIT_BENCH_ROUNDS) || Number.POSITIVE_INFINITY

/** Runs `warmups` unrecorded and `rounds` recorded rounds, or as many as the user wants at most. A contender that fails is out, with its reason. */
export async function paired(
  contenders: readonly Contender[],
  rounds: number,
  warmups = 1,
): Promise<Results> {
  const values = new Map<string, (readonly number[])[]>(contenders.map(({ name }) => [name, []]))
  const failures = new Map<string, string>()
  for (let round = -warmups; round < Math.min(rounds, MOST_ROUNDS); round++) {
    for (const contender of rotated(contenders, round + warmups)) {
      if (failures.has(contender.name)) continue
      try {
        const measured = await contender.measure()
        if (round >= 0) values.get(contender.name)?.push(measured)
      } catch (error) {
        failures.set(contender.name, messageOf(error))
      }
    }
  }
  return contenders.map(({ name }) => {
    const failure = failures.get(name)
    return failure === undefined ? { name, rounds: values.get(name) ?? [] } : { name, failure }
  })
}

/** One column of what `paired` measured. */
export function columnOf(results: Results, index: number): readonly Series[] {
  return results.map((result) => {
    if ('failure' in result) return result
    return { name: result.name, values: result.rounds.map((values) => values[index] ?? Number.NaN) }
  })
}

/** Median and 80 % interval, linearly interpolated between the sorted values. */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b)
  return {
    p10: quantile(sorted, 0.1),
    p50: quantile(sorted, 0.5),
    p90: quantile(sorted, 0.9),
    n: sorted.length,
  }
}

/** The ratio of each round, summarised. Both series must come from the same `paired` call. */
export function ratio(series: readonly number[], reference: readonly number[]): Spread {
  return spread(series.map((value, round) => value / (reference[round] ?? Number.NaN)))
}

/** `sorted` must be ascending; NaN when it is empty. */
export function quantile(sorted: readonly number[], q: number): number {
  const at = (sorted.length - 1) * q
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? low
  return low + (high - low) * (at - Math.floor(at))
}

function rotated<T>(items: readonly T[], by: number): readonly T[] {
  const at = by % Math.max(1, items.length)
  return [...items.slice(at), ...items.slice(0, at)]
}
