/** A machine that goes down in a burst of writes: the directory and the number stay on record, and the log says so. */
import assert from 'node:assert/strict'
import { globSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { Fact } from '../../src/audit/fact.ts'
import { readJournal } from '../../src/audit/journal.ts'
import { endProcesses, eventually, processesWith } from '../support/processes.ts'
import { Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const BURST =
  'mkdir burst; i=0; while [ $i -lt 60 ]; do echo x > burst/f$i; i=$((i+1)); done; touch written; sleep 60'

const records = (path: string): { fact: Fact; next: number }[] => [...readJournal(path)]

/** A session that dies in its burst with everything else; what the log says of its files after the next start. */
async function cutDown(powerCut: boolean): Promise<string[]> {
  const stage = new Stage('user')
  const running = stage.session(['/bin/sh', '-c', BURST])
  const find = (pattern: string): string | undefined =>
    globSync(`state/sessions/*/${pattern}`, { cwd: stage.ambitHome })[0]
  const view = (): string => join(stage.ambitHome, find('journal/view.wal') ?? 'none')
  const intended = (): boolean =>
    find('journal/view.wal') !== undefined && records(view()).some(({ fact }) => fact.k === 'file.intent')
  assert.ok(await eventually(intended, 30_000), 'control: a burst is recorded as one')
  endProcesses(stage.root)
  await running
  assert.ok(await eventually(() => processesWith(stage.root).length === 0))
  if (powerCut) {
    const all = records(view())
    const at = all.findIndex(({ fact }) => fact.k === 'file.intent')
    // Within a record, not far behind the intent: what a disk keeps of a file that was not synced.
    truncateSync(view(), (all[Math.min(at + 4, all.length - 1)]?.next ?? 0) - 3)
    const registration = join(stage.ambitHome, find('registration.json') ?? 'none')
    const text = readFileSync(registration, 'utf8')
    writeFileSync(
      registration,
      text.replace(/"born":"[^:]*:/, '"born":"00000000-0000-0000-0000-000000000000:'),
    )
  }
  const said: string[] = []
  const told = async (): Promise<boolean> => {
    said.splice(0, said.length, ...(await stage.events()).map((event) => JSON.stringify(event)))
    return said.some((event) => /the machine went down|died without a word/.test(event))
  }
  assert.ok(await eventually(told, 20_000), said.join('\n'))
  stage.dispose()
  return said.filter((event) => event.includes('were being written'))
}

test('a power cut within a burst of writes is told in the log, with directory and number', {
  skip: unavailable('user') ?? false,
}, async () => {
  const said = await cutDown(true)
  assert.equal(said.length, 1, said.join('\n'))
  assert.match(
    said[0] ?? '',
    /files beneath \S*\/project\/burst were being written: \d are recorded by name, up to 25\d more/,
  )
})

test('control: a killed session takes no record with it, and nothing of the kind is told', {
  skip: unavailable('user') ?? false,
}, async () => {
  assert.deepEqual(await cutDown(false), [])
})
