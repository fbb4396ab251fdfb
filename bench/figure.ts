/** What a figure is and what it reports. One file in `figures/` each. */
import type { Series } from './stats.ts'

export interface Figure {
  readonly name: string
  readonly title: string
  run(bench: Bench): Promise<Section>
}

/** What figures share. */
export interface Bench {
  /** Private scratch directory on a real disk, traversable by others; removed at the end. */
  readonly scratch: string
  /** Progress, one line. */
  say(text: string): void
  /** Runs at the end, newest first, whatever happened. */
  defer(cleanup: () => unknown): void
}

export interface Section {
  /** How it was measured, as Markdown paragraphs. */
  readonly how: string
  readonly tables: readonly Table[]
  readonly goals: readonly Goal[]
  /** What limits it; what was tried. */
  readonly limits: readonly string[]
}

/** Rows are contenders, columns are workloads; cells hold the median, its spread and the ratio to `reference`. */
export interface Table {
  readonly caption: string
  readonly reference: string | null
  readonly columns: readonly Column[]
}

export interface Column {
  readonly title: string
  /** Of a recorded value, e.g. `ms`, `req/s`. */
  readonly unit: string
  readonly series: readonly Series[]
}

/** A goal that the run itself decides. `met` is null when it could not be measured. */
export interface Goal {
  readonly text: string
  readonly got: string
  readonly met: boolean | null
}

/** The goal that `bound` compares `value` with; null value = not measured. */
export function goal(text: string, value: number | null, met: (value: number) => boolean, unit = ''): Goal {
  if (value === null || Number.isNaN(value)) return { text, got: 'not measured', met: null }
  return { text, got: `${short(value)}${unit}`, met: met(value) }
}

/** The goal that each of `values` has to meet; one that misses it decides, also where another was not measured. */
export function goalOfAll(
  text: string,
  values: readonly (number | null)[],
  met: (value: number) => boolean,
  unit = '',
): Goal {
  const each = values.map((value) => goal(text, value, met))
  const results = each.map((one) => one.met)
  return {
    text,
    got: `${each.map(({ got }) => got).join('; ')}${unit}`,
    met: results.includes(false) ? false : results.includes(null) ? null : true,
  }
}

/** Three significant digits, thousands separated. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return '?'
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  return value.toLocaleString('en-US', { maximumFractionDigits: Math.min(digits, 4), useGrouping: true })
}

/** Values of one contender in a column, or null. */
export function valuesOf(column: Column, contender: string): readonly number[] | null {
  const series = column.series.find(({ name }) => name === contender)
  return series && 'values' in series && series.values.length > 0 ? series.values : null
}
