/** What stands behind a line that misses its goal: requests, system calls and processor time of one run. */
import { readFileSync } from 'node:fs'
import { messageOf } from '../../src/lib/errors.ts'
import { type Calls, traced } from '../calls.ts'
import { type Bench, short } from '../figure.ts'
import type { Place } from './view-places.ts'

interface Work {
  readonly titles: readonly string[]
  /** Milliseconds, for each title. */
  run(place: Place): Promise<readonly number[]>
}

/** Of the view: what it is asked, what it calls, what it needs of the processors. */
export function servedBy(bench: Bench, place: Promise<Place>, work: Work): Promise<string> {
  return line(work, async () => {
    const ready = await place
    const { server } = ready
    if (server === undefined) throw new Error('the process of the view is not known')
    const before = cpuOf(server)
    const took = sum(await work.run(ready))
    const [user, system] = cpuOf(server).map((now, index) => now - (before[index] ?? 0))
    const { requests, calls, empty } = await traced(bench, server, () => work.run(ready))
    return (
      `${short(total(requests))} FUSE requests (${list(requests)}); ${short(total(calls))} system calls of the view ` +
      `(${list(calls)}; ${short(empty)} reads found no request). In an untraced run of ${short(took)} ms the view had ` +
      `${short(user ?? 0)} ms of a processor itself and ${short(system ?? 0)} in the kernel.`
    )
  })
}

/** Of the command: what it calls natively and through a mount, and what the kernel needs for it. */
export function mountedBeside(
  bench: Bench,
  places: readonly [native: Promise<Place>, mount: Promise<Place>],
  work: Work,
  systemMs: (place: Place) => Promise<number>,
): Promise<string> {
  return line(work, async () => {
    const [native, mount] = await Promise.all(places)
    const [bare, through] = [await systemMs(native), await systemMs(mount)]
    const count = async (place: Place): Promise<Calls> => {
      if (place.client === undefined) throw new Error('the process of the agent is not known')
      return traced(bench, place.client, () => work.run(place))
    }
    const [few, many] = [await count(native), await count(mount)]
    return (
      `the command’s system calls through the mount ${short(total(many.calls))} (${list(many.calls)}), natively ` +
      `${short(total(few.calls))} (${list(few.calls)}); in untraced runs the kernel had ${short(through)} ms of a ` +
      `processor for them, natively ${short(bare)}.`
    )
  })
}

async function line(work: Work, text: () => Promise<string>): Promise<string> {
  const title = `Counted, \`${work.titles.join('` and `')}\``
  try {
    return `${title}: ${await text()}`
  } catch (error) {
    return `${title}: not measured: ${messageOf(error)}`
  }
}

const sum = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0)
const total = (counts: ReadonlyMap<string, number>): number => sum(counts.values())

/** The five most frequent ones. */
function list(counts: ReadonlyMap<string, number>): string {
  const sorted = [...counts].toSorted(([, a], [, b]) => b - a)
  return sorted
    .slice(0, 5)
    .map(([name, count]) => `${name} ${short(count)}`)
    .join(', ')
}

/** Milliseconds that a process had itself and in the kernel; the kernel counts in steps of 10. */
function cpuOf(pid: number): readonly number[] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return [Number(fields[11]) * 10, Number(fields[12]) * 10]
}
