/** From a session's facts to the signed log. */
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { FactBody } from '../../src/audit/fact.ts'
import { Journal } from '../../src/audit/journal.ts'
import { loadOrMakeSigner } from '../../src/audit/keys.ts'
import { Log } from '../../src/audit/log.ts'
import { Sequencer } from '../../src/audit/sequencer.ts'
import { makeDir } from '../../src/lib/make-dir.ts'
import type { Bench } from '../figure.ts'
import { LineProcess } from '../line-process.ts'
import type { Contender } from '../stats.ts'

export const BATCH = 100
export const SEQUENCED = 20_000
/** Enough for the two processes to run side by side for most of it. */
export const FOLLOWED = 100_000

export const LOG = 'the journal written before; journal to OCSF, tiles, signed checkpoint'
export const BESIDE = `fact to signed log, a sync for ${BATCH}, the log in a process beside it`
export const IN_TURN = `fact to signed log, each ${BATCH} in the signed log before the next`

const SESSION = '20260101T000000Z-bench'

export async function openLog(
  dir: string,
  keys: string,
  sessions: string,
): Promise<{ log: Log; sequencer: Sequencer }> {
  const log = await Log.open({ dir, signer: loadOrMakeSigner(keys, dir) })
  const device = { hostname: hostname(), uid: 'bench' }
  return { log, sequencer: new Sequencer({ log, device, dirOf: (session) => join(sessions, session) }) }
}

interface Place {
  readonly log: string
  readonly keys: string
  readonly sessions: string
  readonly journal: Journal
}

let serial = 0

/** A session with an empty journal, and where its log goes. */
function newPlace(bench: Bench): Place {
  const at = (...parts: string[]): string => join(bench.scratch, `log-${serial}`, ...parts)
  serial++
  const journal = at('sessions', SESSION, 'journal')
  makeDir(journal, 0o777)
  return {
    log: at('log'),
    keys: at('keys'),
    sessions: at('sessions'),
    journal: Journal.open(join(journal, 'run.wal')),
  }
}

/** `count` facts, a sync for each batch, and what `then` does behind it. */
async function record(
  journal: Journal,
  fact: FactBody,
  count: number,
  then?: () => Promise<unknown>,
): Promise<void> {
  for (let done = 0; done < count; done += BATCH) {
    for (let i = 0; i < BATCH; i++) journal.append(fact)
    await journal.sync()
    await then?.()
  }
}

/** Facts a second of `work`, which puts `count` of them into a log and tells its size. */
async function rate(count: number, work: () => Promise<number>): Promise<readonly number[]> {
  const began = performance.now()
  const size = await work()
  const seconds = (performance.now() - began) / 1000
  if (size !== count) throw new Error(`the log has ${size} entries`)
  return [count / seconds]
}

/** A journal that lies there already. */
export const sequencing = (bench: Bench, fact: FactBody): Contender => ({
  name: LOG,
  measure: async () => {
    const place = newPlace(bench)
    await record(place.journal, fact, SEQUENCED)
    place.journal.close()
    const { log, sequencer } = await openLog(place.log, place.keys, place.sessions)
    sequencer.follow(SESSION)
    try {
      return await rate(SEQUENCED, async () => (await sequencer.finish(SESSION)).size)
    } finally {
      log.close()
    }
  },
})

/** Writer and sequencer side by side, as a session and `ambitd` are. */
export const besideEachOther = (bench: Bench, fact: FactBody): Contender => ({
  name: BESIDE,
  measure: async () => {
    const { journal, log, keys, sessions } = newPlace(bench)
    const program = join(import.meta.dirname, '../log-follower.ts')
    const argv = [process.execPath, program, log, keys, join(sessions, SESSION)]
    const { child } = await LineProcess.start(bench, argv)
    try {
      return await rate(FOLLOWED, async () => {
        await child.ask({ op: 'follow' })
        await record(journal, fact, FOLLOWED)
        return child.number({ op: 'finish' }, 'size')
      })
    } finally {
      journal.close()
      await child.stop()
    }
  },
})

/** Nothing is written before what was is in the signed log. */
export const inTurn = (bench: Bench, fact: FactBody): Contender => ({
  name: IN_TURN,
  measure: async () => {
    const place = newPlace(bench)
    const { log, sequencer } = await openLog(place.log, place.keys, place.sessions)
    sequencer.follow(SESSION)
    try {
      return await rate(SEQUENCED, async () => {
        await record(place.journal, fact, SEQUENCED, () => sequencer.sequence())
        place.journal.close()
        return (await sequencer.finish(SESSION)).size
      })
    } finally {
      log.close()
    }
  },
})
