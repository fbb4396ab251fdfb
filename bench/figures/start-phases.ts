/** Where the time of a start goes, from the clocks of the session's own records. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Fact } from '../../src/audit/fact.ts'
import { readJournal } from '../../src/audit/journal.ts'
import type { Column } from '../figure.ts'
import { messageOf } from '../../src/lib/errors.ts'
import type { Series } from '../stats.ts'

const PHASES = [
  'hand over, resolve profile and agent, until the start is recorded',
  'namespaces, gate, view, cell, until the controls are recorded as enforced',
  'until the command is launched',
  'the command, until the end is recorded',
  'log sequenced and signed, tidied up, until exit',
] as const

/** Milliseconds of each phase in `rounds` runs. `run` starts one session whose state lies in `home`; `ready` comes before it and is not counted. */
export async function phases(
  home: string,
  rounds: number,
  run: () => Promise<unknown>,
  ready: () => Promise<void>,
): Promise<Column> {
  const taken: number[][] = []
  try {
    for (let round = 0; round < rounds; round++) {
      await ready()
      const before = new Set(sessionsOf(home))
      const began = now()
      await run()
      const ended = now()
      const id = sessionsOf(home).find((one) => !before.has(one))
      if (id === undefined) throw new Error('no session was recorded')
      const marks = [began, ...marksOf(join(home, 'state', 'sessions', id, 'journal')), ended]
      taken.push(marks.slice(1).map((mark, index) => mark - (marks[index] ?? Number.NaN)))
    }
  } catch (error) {
    return { title: 'time', unit: 'ms', series: [{ name: 'phases', failure: messageOf(error) }] }
  }
  const series: Series[] = PHASES.map((name, index) => ({
    name,
    values: taken.map((one) => one[index] ?? Number.NaN),
  }))
  return { title: 'time', unit: 'ms', series }
}

/** CLOCK_MONOTONIC in milliseconds, as in facts. */
const now = (): number => Number(process.hrtime.bigint() / 1000n) / 1000

const sessionsOf = (home: string): readonly string[] => readdirSync(join(home, 'state', 'sessions'))

function marksOf(journals: string): readonly number[] {
  const run = factsOf(join(journals, 'run.wal'))
  const launch = factsOf(join(journals, 'launch.wal'))
  return [
    at(run, 'session.start'),
    at(run, 'session.enforced'),
    at(launch, 'process.launch'),
    at(run, 'session.end'),
  ]
}

const factsOf = (path: string): readonly Fact[] => [...readJournal(path)].map(({ fact }) => fact)

function at(facts: readonly Fact[], kind: Fact['k']): number {
  const fact = facts.find(({ k }) => k === kind)
  if (!fact) throw new Error(`the session recorded no ${kind}`)
  return fact.m / 1000
}
