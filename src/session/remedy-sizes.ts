/** Sizes of a profile, raised. */
import { parseSize } from '../lib/units.ts'

/** `key: 8MiB` for 4 MiB: twice `bytes`, rounded up to what a profile can write; null beyond that. */
export function doubled(key: string, bytes: number): string | null {
  const wanted = Math.max(1, bytes) * 2
  for (const [unit, size] of [
    ['B', 1],
    ['KiB', 1024],
    ['MiB', 1024 ** 2],
    ['GiB', 1024 ** 3],
    ['TiB', 1024 ** 4],
  ] as const) {
    const text = `${Math.ceil(wanted / size)}${unit}`
    const whole = unit !== 'TiB' && wanted % (size * 1024) === 0
    if (wanted / size < 10_000 && !whole) return parseSize(text) === null ? null : `${key}: ${text}`
  }
  return null
}
