/** What a session holds of the host's memory in each runtime, and its bare means, while no other machine is alive. */
import type { Bench, Table } from '../figure.ts'
import { held, type Mapping, mappingsOf, read } from '../memory.ts'
import { attempt } from '../peers/attempt.ts'
import { columnOf, type Contender, paired, type Series } from '../stats.ts'
import { GUEST_FUSE, GUEST_MEMORY, NATIVE, type Opening, type Place, placesFor } from './runtimes-places.ts'
import { BWRAP, COLD, CONTAINER, OS_SANDBOX, RUNSC, WARM } from './runtimes-start.ts'
import { NETWORK, SEEN_FILES } from './runtimes-work.ts'

const ROUNDS = 5
const MIB = 1 << 20
const ROWS = [NATIVE, BWRAP, RUNSC, GUEST_FUSE, OS_SANDBOX, CONTAINER, COLD, WARM]

export const MACHINE = "of it QEMU's"

/** Each row is opened, does all the work but that in `/tmp` once, is looked at and is gone before the next begins. */
export async function memory(bench: Bench, rg: string): Promise<Table> {
  const contenders: Contender[] = []
  for (const { name, opening } of await placesFor(bench, 'memory', ROWS))
    contenders.push(await attempt(name, async () => measured(name, await opening, rg)))
  const results = await paired(contenders, ROUNDS, 0)
  const columns = ['all', "all, without the guest's memory", MACHINE].map((title, index) => ({
    title,
    unit: 'MiB',
    series: columnOf(results, index).filter(isKnown),
  }))
  return { caption: 'Memory of a session that has done this work', reference: null, columns }
}

/** Not for what is no machine. */
const isKnown = (series: Series): boolean =>
  'failure' in series || series.values.every((value) => !Number.isNaN(value))

function measured(name: string, open: Opening, rg: string): Contender {
  const measure = async (): Promise<readonly number[]> => {
    const place = await open()
    try {
      for (const { run } of [...SEEN_FILES, ...NETWORK]) await run(place, rg)
      return memoryOf(place).map((bytes) => bytes / MIB)
    } finally {
      await place.agent.stop()
    }
  }
  return { name, measure }
}

function memoryOf({ processes }: Place): readonly number[] {
  const all = processes().flatMap(mappingsOf)
  const qemu = new Set(processes().filter(isQemu))
  const guests = new Set(all.filter(({ pid, size }) => qemu.has(pid) && size === GUEST_MEMORY))
  if (qemu.size === 0) return [held(all), Number.NaN, Number.NaN]
  if (guests.size === 0) throw new Error("the guest's memory was not found")
  const without = all.filter((one) => !guests.has(one))
  const ofQemu = ({ pid }: Mapping): boolean => qemu.has(pid)
  return [held(all), held(without), held(without.filter(ofQemu))]
}

/** Not bubblewrap, which has its name among its words. */
const isQemu = (pid: number): boolean =>
  (read(`/proc/${pid}/cmdline`).split('\0')[0] ?? '').includes('qemu-system')
