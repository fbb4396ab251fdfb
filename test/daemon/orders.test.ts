/** Valid orders in any state, several at once, from one seed: what `ambitd` holds and what it wrote stay one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Journal } from '../../src/audit/journal.ts'
import { loadVerifierKey } from '../../src/audit/keys.ts'
import { verifyLog } from '../../src/audit/verify.ts'
import type { DaemonClient, Op } from '../../src/daemon/client.ts'
import { loadRecord } from '../../src/daemon/records.ts'
import { AmbitError } from '../../src/lib/errors.ts'
import { logDir } from '../../src/lib/paths.ts'
import { Stage } from './stage.ts'

const SEED = Number(process.env.AMBIT_FUZZ_SEED ?? 0x5eed)
const ROUNDS = Number(process.env.AMBIT_FUZZ_ROUNDS ?? 60)
const IDS = ['s0abcdefg-aaaaaa', 's0abcdefg-bbbbbb', 's0abcdefg-cccccc', 's0abcdefg-dddddd']
const UNKNOWN = 's0abcdefg-unknown'

/** What an order may be answered with; anything else is a fault of the daemon's own. */
const REFUSALS = ['ERR_DAEMON_PEER', 'ERR_SESSION_NOT_FOUND', 'ERR_DAEMON_UNREACHABLE', 'ERR_INPUT_INVALID']

function numbers(seed: number): (below: number) => number {
  let state = seed >>> 0 || 1
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

test(`orders in any state, AMBIT_FUZZ_SEED=${SEED}`, async (t) => {
  const stage = new Stage(t)
  const below = numbers(SEED)
  const pick = <T>(from: readonly T[]): T => from[below(from.length)] as T
  const journals = new Map<string, Journal>(IDS.map((id) => [id, stage.session(id)]))
  const facts = new Map<string, number>(IDS.map((id) => [id, 1]))
  const ended = new Set<string>()
  const answers = new Map<string, number>()
  const cli = await stage.connect()
  const run = async (): Promise<DaemonClient> => {
    const client = await stage.connect()
    client.onPush(() => {
      if (below(3) === 0) throw new AmbitError('ERR_INPUT_INVALID', 'the order', 'it cannot be obeyed')
    })
    return client
  }
  const runs = [await run(), await run()]
  const ask = async (client: DaemonClient, op: Op, args: Record<string, unknown>): Promise<boolean> => {
    const answer = await client.call(op, args, 10_000).then(
      () => 'done',
      (error: unknown) => (error instanceof AmbitError ? error.code : String(error)),
    )
    assert.ok(answer === 'done' || REFUSALS.includes(answer), `${op}: ${answer}`)
    answers.set(`${op} ${answer}`, (answers.get(`${op} ${answer}`) ?? 0) + 1)
    return answer === 'done'
  }
  const end = async (client: DaemonClient, id: string): Promise<void> => {
    if (await ask(client, 'session.close', { id })) ended.add(id)
  }
  const acts: readonly (() => Promise<unknown>)[] = [
    () => {
      const id = pick(IDS)
      return ask(pick(runs), 'session.open', stage.openArgs(id))
    },
    () => (below(6) === 0 ? end(pick(runs), pick(IDS)) : Promise.resolve()),
    () => ask(cli, pick(['freeze', 'thaw'] as const), { id: pick([...IDS, UNKNOWN]) }),
    () => ask(cli, 'narrow', { id: pick([...IDS, UNKNOWN]), hide: ['**/x'], protect: [] }),
    // Not of one that lives: what does not obey is killed, and that would be this test.
    () => ask(cli, 'kill', { id: pick([UNKNOWN, ...ended]) }),
    () => ask(cli, 'shutdown', {}),
    () => ask(cli, pick(['log.sync', 'status'] as const), {}),
    () => ask(cli, 'sessions', { all: below(2) === 0 }),
    async () => {
      if (below(8) > 0) return
      const at = below(runs.length)
      runs[at]?.close()
      runs[at] = await run()
    },
    async () => {
      const id = pick(IDS)
      if (ended.has(id)) return
      journals.get(id)?.append({ k: 'file.create', path: `/p/${below(100)}`, type: 'file' })
      facts.set(id, (facts.get(id) ?? 0) + 1)
    },
  ]
  // Something always lives: a daemon that is told to go and has nothing to do goes.
  assert.ok(await ask(runs[0]!, 'session.open', stage.openArgs(IDS[0]!)))
  const last = await stage.connect()
  stage.session('s0abcdefg-always')
  await last.call('session.open', stage.openArgs('s0abcdefg-always'))
  for (let round = 0; round < ROUNDS; round++)
    await Promise.all(Array.from({ length: 1 + below(5) }, () => pick(acts)()))

  for (const id of IDS) {
    if (ended.has(id)) continue
    for (const client of runs) await ask(client, 'session.open', stage.openArgs(id))
    journals.get(id)?.append({ k: 'session.end', outcome: 'ended', exit: 0, reason: null })
    facts.set(id, (facts.get(id) ?? 0) + 1)
    // While it ends: the order that comes with the end changes nothing that is written of it.
    await Promise.all([...runs.map((client) => end(client, id)), ask(cli, 'freeze', { id })])
    assert.ok(ended.has(id), id)
  }
  assert.ok(await ask(cli, 'log.sync', {}))
  for (const id of IDS) {
    assert.match(String(loadRecord(stage.paths, id)?.state), /^(ended|killed)$/, `${id}: its record`)
    const kinds = stage.kinds(id)
    assert.equal(kinds.length, facts.get(id), `${id}: each fact once`)
    assert.equal(kinds.filter((kind) => kind === 'session.start').length, 1, id)
  }
  const listed = (await cli.call('sessions', { all: false })).sessions.map(({ id }) => id)
  assert.deepEqual(listed, ['s0abcdefg-always'])
  const status = await cli.call('status', {})
  assert.deepEqual([status.broken, status.stalled], [null, null])
  assert.equal((await verifyLog(logDir(stage.paths), loadVerifierKey(stage.paths))).ok, true)
  t.diagnostic([...answers].map(([answer, count]) => `${answer} ${count}`).join(', '))
  assert.ok(answers.size > 12, 'it knocks, but nothing opens')
})
