import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { EntryBatch } from '../../src/audit/entry-batch.ts'
import { Log } from '../../src/audit/log.ts'
import type { LogFiles } from '../../src/audit/log-files.ts'
import type { Cursors } from '../../src/audit/log-state.ts'
import { formatSignerKey, parseSignerKey } from '../../src/audit/note.ts'
import { readBundle, tileWidth } from '../../src/audit/tiles.ts'
import { verifyLog } from '../../src/audit/verify.ts'
import { type Fault, FaultFiles } from './fault-files.ts'
import { tempDir } from './temp.ts'

const signer = parseSignerKey(formatSignerKey('ambit.invalid/test', Buffer.alloc(32, 1)))

/** flock(1) on a descriptor it inherits locks our open file: the same lock as the addon's, without building it. */
const lock = (fd: number): boolean =>
  spawnSync('flock', ['-n', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] }).status === 0
const unlocked = (): boolean => true

const open = (dir: string, files?: LogFiles) =>
  Log.open({ dir, signer, lock: unlocked, ...(files ? { files } : {}) })
const entry = (i: number): Buffer => Buffer.from(`entry ${i} ${'x'.repeat(i % 7)}`)
const range = (from: number, to: number): Buffer[] =>
  Array.from({ length: to - from }, (_, i) => entry(from + i))
const cursorAt = (offset: number): Cursors => ({ 's/run': { offset, dead: null } })

function entriesOf(dir: string, size: number): string[] {
  const all: string[] = []
  for (let tile = 0; tile * 256 < size; tile++) {
    const { entries, bad } = readBundle(dir, tile, tileWidth('entries', tile, size))
    assert.equal(bad, null)
    all.push(...entries.map(String))
  }
  return all
}

/** A log whose batches end at `ends`. */
async function build(dir: string, ends: readonly number[]): Promise<void> {
  const log = await open(dir)
  for (const end of ends) {
    await log.appendBatch(EntryBatch.of(log.size, range(log.size, end)), cursorAt(end))
    await log.publish()
  }
  log.close()
}

test('verifies at every size around tile borders, however it was cut into batches', async (t) => {
  const dir = tempDir(t)
  const ends = [1, 2, 255, 256, 257, 511, 512, 513, 900]
  const log = await open(dir)
  for (const end of ends) {
    await log.appendBatch(EntryBatch.of(log.size, range(log.size, end)), cursorAt(end))
    await log.publish()
    const result = await verifyLog(dir, signer.vkey)
    assert.deepEqual(result, { ok: true, size: end, root: Buffer.from(log.head.root).toString('base64') })
  }
  log.close()
  const atOnce = tempDir(t)
  await build(atOnce, [900])
  assert.equal(
    fs.readFileSync(join(atOnce, 'checkpoint'), 'utf8'),
    fs.readFileSync(join(dir, 'checkpoint'), 'utf8'),
  )
})

test('has the tiles that tlog-tiles names for 70,000 entries, and no others after a reopen', async (t) => {
  const dir = tempDir(t)
  await build(dir, [100, 70_000])
  ;(await open(dir)).close()
  const names = fs.readdirSync(join(dir, 'tile'), { recursive: true, withFileTypes: true })
  const files = names
    .filter((name) => name.isFile())
    .map((name) => join(name.parentPath, name.name).slice(dir.length + 1))
  const level = (l: string) => files.filter((name) => name.startsWith(`tile/${l}/`)).sort()
  assert.equal(level('0').length, 274)
  assert.ok(level('0').includes('tile/0/273.p/112') && level('0').includes('tile/0/272'))
  assert.deepEqual(level('1'), ['tile/1/000', 'tile/1/001.p/17'])
  assert.deepEqual(level('2'), ['tile/2/000.p/1'])
  assert.ok(level('entries').includes('tile/entries/273.p/112'))
  assert.equal((await verifyLog(dir, signer.vkey)).ok, true)
})

/** One life of the process: reopen, append two batches, publish between. What it was told is acknowledged counts. */
async function live(
  dir: string,
  files: FaultFiles,
  acknowledged: { size: number; offset: number },
): Promise<void> {
  const log = await open(dir, files)
  try {
    for (const count of [200, 130]) {
      const size = log.size + count
      await log.appendBatch(EntryBatch.of(log.size, range(log.size, size)), cursorAt(size * 10))
      acknowledged.size = size
      await log.publish()
    }
  } finally {
    log.close()
  }
}

/** After any death: it opens, holds all that was acknowledged and no more than was sent, cursors fit, and it goes on. */
async function assertRecovers(dir: string, acknowledged: number, message: string): Promise<void> {
  const log = await open(dir)
  const { size } = log
  assert.ok(size >= acknowledged, `${message}: ${size} of ${acknowledged}`)
  assert.ok([0, 150, 350, 480].includes(size), `${message}: half a batch, ${size}`)
  assert.deepEqual(log.cursors, size === 0 ? {} : cursorAt(size === 150 ? 150 : size * 10), message)
  await log.appendBatch(EntryBatch.of(log.size, range(size, 520)), cursorAt(5200))
  await log.publish()
  log.close()
  assert.equal((await verifyLog(dir, signer.vkey)).ok, true, message)
  assert.deepEqual(entriesOf(dir, 520), range(0, 520).map(String), message)
}

/** The steps of such a life, by name. */
async function stepsOf(t: TestContext): Promise<string[]> {
  const dir = tempDir(t)
  await build(dir, [150])
  const files = new FaultFiles(dir)
  await live(dir, files, { size: 0, offset: 0 })
  return files.steps
}

for (const fault of ['kill', 'torn'] as const) {
  test(`A-01: ${fault} at every step of a life, then recovery`, async (t) => {
    const steps = await stepsOf(t)
    assert.ok(steps.length > 40)
    for (const [i, step] of steps.entries()) {
      const at = i + 1
      // Only a write can be torn.
      if (fault === 'torn' && !step.startsWith('write')) continue
      const dir = tempDir(t)
      await build(dir, [150])
      const acknowledged = { size: 150, offset: 0 }
      await assert.rejects(live(dir, new FaultFiles(dir, at, fault), acknowledged), Error, `step ${at}`)
      await assertRecovers(dir, acknowledged.size, `${fault} at step ${at}`)
    }
  })
}

test('A-01: kill at every step of the birth of a log', async (t) => {
  const probe = new FaultFiles(tempDir(t))
  const born = tempDir(t)
  const files = new FaultFiles(born)
  ;(await open(born, files)).close()
  assert.ok(files.steps.length > probe.steps.length)
  for (let at = 1; at <= files.steps.length; at++) {
    const dir = tempDir(t)
    await assert.rejects(open(dir, new FaultFiles(dir, at)))
    await assertRecovers(dir, 0, `birth, step ${at}`)
  }
})

test('A-02, A-03: power cut at every step: unsynced bytes and names go, by chance some stay', async (t) => {
  const steps = (await stepsOf(t)).length
  let seed = 1
  const coin = (): boolean => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31
    return seed > 2 ** 30
  }
  for (let at = 1; at <= steps + 1; at++) {
    for (const lucky of at % 2 ? [() => false] : [coin]) {
      const dir = tempDir(t)
      await build(dir, [150])
      const acknowledged = { size: 150, offset: 0 }
      const files = new FaultFiles(dir, at)
      await live(dir, files, acknowledged).catch(() => undefined)
      const after = tempDir(t)
      files.materialize(after, lucky)
      await assertRecovers(after, acknowledged.size, `power cut at step ${at}`)
    }
  }
})

test('A-03: the model of the power cut notices a directory that is not synced', async (t) => {
  const dir = tempDir(t)
  const files = new FaultFiles(dir)
  files.syncDir = async () => undefined
  const log = await open(dir, files)
  await log.appendBatch(EntryBatch.of(log.size, range(0, 10)), cursorAt(10))
  log.close()
  const after = tempDir(t)
  files.materialize(after, () => false)
  assert.ok(!fs.existsSync(join(after, 'state.json')))
})

for (const fault of ['ENOSPC', 'EIO'] as const satisfies readonly Fault[]) {
  test(`A-04, A-05: ${fault} at every step: refused, nothing half committed, goes on or must be reopened`, async (t) => {
    const steps = (await stepsOf(t)).length
    for (let at = 1; at <= steps; at++) {
      const dir = tempDir(t)
      await build(dir, [150])
      const files = new FaultFiles(dir, at, fault)
      const log = await open(dir, files).catch((error: { code: string }) => {
        assert.equal(error.code, 'ERR_LOG_FAILED')
        return null
      })
      if (!log) {
        await assertRecovers(dir, 150, `${fault} at step ${at}`)
        continue
      }
      const sizes: number[] = []
      const attempt = async (work: () => Promise<void>): Promise<void> => {
        try {
          await work()
        } catch (error) {
          assert.equal((error as { code: string }).code, 'ERR_LOG_FAILED', `step ${at}`)
          const synced = files.steps[at - 1]?.startsWith('fsync')
          // A failed sync ends this Log for good; any other failure is over when the disk is well again.
          if (synced) await assert.rejects(log.publish(), { code: 'ERR_LOG_FAILED' })
          assert.equal(log.failure !== null, synced, `step ${at}: ${files.steps[at - 1]}`)
          if (!synced) await work()
        }
        sizes.push(log.size)
      }
      for (const end of [350, 480]) {
        if (log.failure) break
        await attempt(async () =>
          log.size < end
            ? await log.appendBatch(EntryBatch.of(log.size, range(log.size, end)), cursorAt(end * 10))
            : undefined,
        )
        if (!log.failure) await attempt(() => log.publish())
      }
      log.close()
      await assertRecovers(dir, log.failure?.why === 'it is closed' ? 480 : 150, `${fault} at step ${at}`)
    }
  })
}

test('A-19: a second sequencer is refused while the first lives, and admitted after its death', async (t) => {
  const dir = tempDir(t)
  const first = await Log.open({ dir, signer, lock })
  await assert.rejects(Log.open({ dir, signer, lock }), { code: 'ERR_LOG_LOCKED' })
  const script = `
    import { Log } from '${import.meta.resolve('../../src/audit/log.ts')}'
    import { formatSignerKey, parseSignerKey } from '${import.meta.resolve('../../src/audit/note.ts')}'
    const signer = parseSignerKey(formatSignerKey('ambit.invalid/test', Buffer.alloc(32, 1)))
    const { spawnSync } = await import('node:child_process')
    const lock = (fd) => spawnSync('flock', ['-n', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] }).status === 0
    try { await Log.open({ dir: '${dir}', signer, lock }); console.log('open'); process.kill(process.pid, 'SIGKILL') } catch (error) { console.log(error.code) }`
  const other = () =>
    spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' }).stdout.trim()
  assert.equal(other(), 'ERR_LOG_LOCKED')
  first.close()
  assert.equal(other(), 'open')
  ;(await Log.open({ dir, signer, lock })).close()
})

test('A-11: refuses to open when state, checkpoint or an edge tile is missing or changed, and rebuilds nothing', async (t) => {
  const whole = tempDir(t)
  await build(whole, [700])
  ;(await open(whole)).close()
  const at = (dir: string, path: string) => join(dir, path)
  const flip = (path: string) => {
    const bytes = fs.readFileSync(path)
    bytes[bytes.length - 3]! ^= 1
    fs.writeFileSync(path, bytes)
  }
  const edge = ['tile/entries/002.p/188', 'tile/0/002.p/188', 'tile/1/000.p/2']
  const harms: [string, (dir: string) => void][] = [
    ...['state.json', 'checkpoint', ...edge].map((path): [string, (dir: string) => void] => [
      `without ${path}`,
      (dir) => fs.rmSync(at(dir, path)),
    ]),
    ...edge.map((path): [string, (dir: string) => void] => [`changed ${path}`, (dir) => flip(at(dir, path))]),
    ...edge.map((path): [string, (dir: string) => void] => [
      `cut ${path}`,
      (dir) => fs.truncateSync(at(dir, path), 5),
    ]),
    ['changed checkpoint', (dir) => flip(at(dir, 'checkpoint'))],
    [
      'smaller state',
      (dir) =>
        fs.writeFileSync(
          at(dir, 'state.json'),
          fs.readFileSync(at(dir, 'state.json'), 'utf8').replace('700', '699'),
        ),
    ],
    ['no state at all', (dir) => fs.writeFileSync(at(dir, 'state.json'), '{}')],
  ]
  for (const [name, harm] of harms) {
    const dir = tempDir(t)
    fs.cpSync(whole, dir, { recursive: true })
    harm(dir)
    const before = fs.readdirSync(dir, { recursive: true })
    await assert.rejects(open(dir), { code: 'ERR_LOG_INCONSISTENT' }, name)
    assert.deepEqual(fs.readdirSync(dir, { recursive: true }), before, name)
  }
  const other = parseSignerKey(formatSignerKey('ambit.invalid/test', Buffer.alloc(32, 2)))
  await assert.rejects(Log.open({ dir: whole, signer: other, lock: unlocked }), {
    code: 'ERR_LOG_INCONSISTENT',
  })
  ;(await open(whole)).close()
})

test('A-08: refuses a state older than its own checkpoint', async (t) => {
  const dir = tempDir(t)
  await build(dir, [300])
  const old = fs.readFileSync(join(dir, 'state.json'))
  await build(dir, [400])
  fs.writeFileSync(join(dir, 'state.json'), old)
  await assert.rejects(open(dir), { code: 'ERR_LOG_INCONSISTENT' })
})

test('refuses an entry over 65,535 bytes, and entries made for another place', async (t) => {
  const dir = tempDir(t)
  const log = await open(dir)
  await log.appendBatch(EntryBatch.of(log.size, [Buffer.alloc(65_535)]), {})
  assert.throws(() => EntryBatch.of(log.size, [Buffer.alloc(1), Buffer.alloc(65_536)]), TypeError)
  await assert.rejects(log.appendBatch(EntryBatch.of(log.size + 1, [Buffer.alloc(1)]), {}))
  await log.publish()
  log.close()
  assert.equal(((await verifyLog(dir, signer.vkey)) as { size: number }).size, 1)
})
