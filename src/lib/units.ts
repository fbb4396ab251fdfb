/** Sizes and times as profiles write them (`4MiB`, `8h`) and as people read them. */

const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1000,
  MB: 1000 ** 2,
  GB: 1000 ** 3,
  TB: 1000 ** 4,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
}

const TIME_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}

/** One number and one unit, no sign, no exponent, no space: `4MiB`, `1.5GiB`, `90m`. */
export const SIZE = /^(\d{1,6}(?:\.\d{1,3})?)(B|[kMGT]B|[KMGT]iB)$/
export const DURATION = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)$/

/** Bytes of `4MiB`; null when malformed or beyond what a number holds exactly. */
export const parseSize = (text: string): number | null => parse(text, SIZE, SIZE_UNITS)

/** Milliseconds of `8h`; null when malformed. */
export const parseDuration = (text: string): number | null => parse(text, DURATION, TIME_UNITS)

function parse(text: string, form: RegExp, units: Readonly<Record<string, number>>): number | null {
  const [, amount, unit] = form.exec(text) ?? []
  const factor = units[unit ?? '']
  if (amount === undefined || factor === undefined) return null
  const value = Math.round(Number(amount) * factor)
  return Number.isSafeInteger(value) ? value : null
}

/** `4 MiB`, `1.5 GiB`: binary units, at most one decimal. */
export function formatSize(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
  const step = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10))
  return `${trim(bytes / 1024 ** step)} ${units[step]}`
}

/** `8 h`, `90 s`: the largest unit that keeps the number whole, else one decimal. */
export function formatDuration(ms: number): string {
  const units = Object.entries(TIME_UNITS).toReversed()
  const [unit, factor] = units.find(([, size]) => ms >= size && ms % size === 0) ?? ['s', 1000]
  return `${trim(ms / factor)} ${unit}`
}

const trim = (value: number): string => String(Math.round(value * 10) / 10)
