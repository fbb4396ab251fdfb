/** What a soak takes for growth, shown on made-up samples. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { checkGrowth, type Sample } from './soak.ts'

/** Forty minutes, a sample each ten seconds; memory in KiB at a time in hours, of `part` only. */
function samples(part: 'ambitd' | 'launch', kib: (hours: number) => number, minutes = 40): Sample[] {
  return Array.from({ length: minutes * 6 }, (_, n) => {
    const part0 = { rssKiB: 50_000, fds: 20 }
    const same = { supervisor: part0, view: part0, launch: part0, ambitd: part0, processes: 9, mounts: 30 }
    return { ...same, at: n * 10_000, [part]: { rssKiB: kib(n / 360), fds: 20 } }
  })
}

/** Up and down by 20 MiB a minute. */
const garbage = (hours: number): number => 80_000 + ((hours * 60) % 1) * 20_480

test('garbage that comes and goes is no growth', () => {
  checkGrowth(samples('ambitd', garbage))
})

test('a leak that stays below the bound of any time shows as a slope, beneath garbage, too', () => {
  const leak = (hours: number): number => garbage(hours) + hours * 30 * 1024
  assert.throws(() => checkGrowth(samples('ambitd', leak)), /ambitd grows by \d+ KiB an hour/)
  checkGrowth(samples('ambitd', leak, 5))
})

test('a native part has less room than one of Node’s', () => {
  const grown = (hours: number): number => 5000 + (hours > 0.3 ? 3 * 1024 : 0)
  assert.throws(() => checkGrowth(samples('launch', grown)), /launch grew by 3072 KiB/)
  checkGrowth(samples('ambitd', grown))
})
