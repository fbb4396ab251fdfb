/** What a durable record costs, and how fast records become a signed log. */
import * as fs from 'node:fs'
import { join } from 'node:path'
import type { FactBody } from '../../src/audit/fact.ts'
import { Journal } from '../../src/audit/journal.ts'
import { type Bench, type Figure, type Goal, goal, type Table, valuesOf } from '../figure.ts'
import { columnOf, type Contender, paired, quantile, ratio, spread } from '../stats.ts'
import {
  BATCH,
  BESIDE,
  besideEachOther,
  FOLLOWED,
  IN_TURN,
  inTurn,
  LOG,
  SEQUENCED,
  sequencing,
} from './journal-log.ts'

const ROUNDS = 7
const SINGLE = 300
const BATCHES = 100

const OURS = 'Ambit journal'
const BARE = 'bare write + fdatasync, ready 500 B'

export const journal: Figure = {
  name: 'journal',
  title: 'Journal and log',
  async run(bench) {
    const single = await paired([bareSingle(bench), journalSingle(bench)], ROUNDS)
    const batch = await paired([bareBatch(bench), journalBatch(bench)], ROUNDS)
    const sequenced = await paired(
      [sequencing(bench, FACT), besideEachOther(bench, FACT), inTurn(bench, FACT)],
      5,
    )
    const durable: Table = {
      caption: 'One durable record',
      reference: BARE,
      columns: ['p50', 'p99'].map((title, index) => ({ title, unit: 'µs', series: columnOf(single, index) })),
    }
    const rates: Table = {
      caption: `Durable records, one sync for ${BATCH}`,
      reference: BARE,
      columns: [{ title: 'rate', unit: 'events/s', series: columnOf(batch, 0) }],
    }
    const log: Table = {
      caption: 'Records in the signed log',
      reference: null,
      columns: [{ title: 'rate', unit: 'events/s', series: columnOf(sequenced, 0) }],
    }
    return { how: HOW, tables: [durable, rates, log], goals: goals(durable, rates, log), limits: LIMITS }
  },
}

/** Bytes of the fact in a journal, both clocks and the frame included. */
const RECORD =
  8 + JSON.stringify({ ...fact(), t: Date.now(), m: Number(process.hrtime.bigint() / 1000n) }).length

const HOW = `On the disk of /var/tmp (the state directory's kind), one file each, \`fdatasync\` off the event loop in both. Ambit appends a
realistic \`http.request\` fact (${RECORD} B with its frame; JSON and CRC-32 made for each); the bare row writes a ready buffer of
500 B with the same calls. p50 and p99 are over ${SINGLE} appends a round. *Records in the signed log*: a journal of ${SEQUENCED} facts that
lies there is mapped, encoded, hashed, written and synced as \`ambitd\` does, with a checkpoint (Ed25519) at the end; then the whole way from the fact, with its JSON made and
the journal synced for each ${BATCH}, until a signed checkpoint covers the last one: ${FOLLOWED} facts with the log in a process of its own beside the writer, as in a session,
and ${SEQUENCED} with a checkpoint signed, written and synced after each ${BATCH}, before the next is made.`

const LIMITS = [
  "One record: the disk's flush; the thread-pool hop of `fs.fdatasync` is in both rows.",
  'Batch: `JSON.stringify`, CRC and one `write(2)` a record, so that each record is in the kernel before its effect; the bare row also writes each one by itself.',
  'Log: requests, answers, credentials and what the view records of opens and changes, the bulk, go natively from a journal’s bytes to framed entries, by the run; whatever is not exactly as our writers leave it is parsed, checked and encoded in JavaScript (user CPU of that whole way with requests: 9.0 → 4.2 µs a fact; of a third requests and two thirds opens in two journals, which alternate: 10.6 → 5.4; medians of paired runs on a loaded machine; memory of the process that did it 206 to 228 → 148 to 157 MiB). Entries lie framed from the start, a bundle is written as it lies, and the next batch reuses its memory. What is left: SHA-256, 160 files a 20,000 facts to create and sync. Next: encode while the batch before is being synced. It runs behind the session, never in its way.',
  'From fact to signed log, side by side: writer (JSON, CRC, one `write(2)` a record) and sequencer are two processes that share two cores with the disk’s work. In turn, 100 facts cost 11 syncs (one of the journal, ten of tiles, state, checkpoint and their directories), 20 opened files and 2 renames (`strace`, 200 batches), in four rounds of the disk that wait for each other; no session waits so: a checkpoint is due each second and at its end. Next: a checkpoint only where somebody waits for one, and batches in one file.',
]

function fact(): FactBody {
  return {
    k: 'http.request',
    flow: 17,
    request: 4211,
    method: 'POST',
    host: 'api.anthropic.com',
    port: 443,
    path: '/v1/messages?beta=true',
    rule: 'network[0]',
    credential: 'anthropic',
    label: 'internal',
    bytes: 18231,
  }
}
const FACT = fact()

let serial = 0
const newFile = (bench: Bench): string => join(bench.scratch, `journal-${serial++}.wal`)

function journalSingle(bench: Bench): Contender {
  return {
    name: OURS,
    measure: async () => {
      const file = Journal.open(newFile(bench))
      const took = await timed(SINGLE, async () => {
        file.append(FACT)
        await file.sync()
      })
      file.close()
      return took
    },
  }
}

function journalBatch(bench: Bench): Contender {
  return {
    name: OURS,
    measure: async () => {
      const file = Journal.open(newFile(bench))
      const began = performance.now()
      for (let batch = 0; batch < BATCHES; batch++) {
        for (let i = 0; i < BATCH; i++) file.append(FACT)
        await file.sync()
      }
      const seconds = (performance.now() - began) / 1000
      file.close()
      return [(BATCH * BATCHES) / seconds]
    },
  }
}

function bareSingle(bench: Bench): Contender {
  return {
    name: BARE,
    measure: () =>
      withBareFile(bench, (append, sync) =>
        timed(SINGLE, async () => {
          append()
          await sync()
        }),
      ),
  }
}

function bareBatch(bench: Bench): Contender {
  return {
    name: BARE,
    measure: () =>
      withBareFile(bench, async (append, sync) => {
        const began = performance.now()
        for (let batch = 0; batch < BATCHES; batch++) {
          for (let i = 0; i < BATCH; i++) append()
          await sync()
        }
        return [(BATCH * BATCHES) / ((performance.now() - began) / 1000)]
      }),
  }
}

async function withBareFile(
  bench: Bench,
  use: (append: () => void, sync: () => Promise<void>) => Promise<readonly number[]>,
): Promise<readonly number[]> {
  const buffer = Buffer.alloc(500, 'x')
  const fd = fs.openSync(newFile(bench), 'wx', 0o600)
  let position = 0
  const append = (): void => {
    position += fs.writeSync(fd, buffer, 0, buffer.length, position)
  }
  const sync = (): Promise<void> =>
    new Promise((resolve, reject) => fs.fdatasync(fd, (error) => (error ? reject(error) : resolve())))
  try {
    return await use(append, sync)
  } finally {
    fs.closeSync(fd)
  }
}

/** Microseconds of `count` calls: p50 and p99. */
async function timed(count: number, call: () => Promise<void>): Promise<readonly number[]> {
  const took: number[] = []
  for (let i = 0; i < count; i++) {
    const began = performance.now()
    await call()
    took.push((performance.now() - began) * 1000)
  }
  took.sort((a, b) => a - b)
  return [quantile(took, 0.5), quantile(took, 0.99)]
}

function goals(durable: Table, rates: Table, log: Table): readonly Goal[] {
  const of = (table: Table, index: number, name: string) => {
    const column = table.columns[index]
    return column ? valuesOf(column, name) : null
  }
  const ours = of(durable, 1, OURS)
  const bare = of(durable, 0, BARE)
  const rate = of(rates, 0, OURS)
  const signed = (name: string): number | null => {
    const values = of(log, 0, name)
    return values ? spread(values).p50 : null
  }
  const enough = (value: number): boolean => value >= 100_000
  return [
    goal(
      'append p99 at most 2 × one fdatasync (p50)',
      ours && bare ? ratio(ours, bare).p50 : null,
      (value) => value <= 2,
      ' ×',
    ),
    goal(
      'journal alone: at least 100,000 durable events/s at batch 100, JSON included',
      rate ? spread(rate).p50 : null,
      enough,
      '/s',
    ),
    goal('log alone: at least 100,000 events/s chained and signed', signed(LOG), enough, '/s'),
    goal(`${BESIDE}: at least 100,000 events/s`, signed(BESIDE), enough, '/s'),
    goal(`${IN_TURN}: at least 100,000 events/s`, signed(IN_TURN), enough, '/s'),
  ]
}
