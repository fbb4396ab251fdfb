import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Barrier } from '../../src/audit/barrier.ts'
import { Journal, readJournal } from '../../src/audit/journal.ts'
import { MAGIC } from '../../src/audit/journal-reader.ts'
import { parseFact } from '../../src/audit/parse-fact.ts'
import { SAMPLES, frame } from './samples.ts'
import { tempDir } from './temp.ts'

/** Facts, and why reading ended. */
function readAll(path: string, from = 0) {
  const facts = readJournal(path, from)
  const found = []
  for (let step = facts.next(); ; step = facts.next()) {
    if (step.done) return { found, end: step.value }
    found.push(step.value)
  }
}

test('gives back every kind of fact, from any cursor', (t) => {
  const path = join(tempDir(t), 'run.wal')
  const journal = Journal.open(path)
  for (const { t: _t, m: _m, ...body } of SAMPLES) journal.append(body)
  journal.close()
  const { found, end } = readAll(path)
  assert.equal(end.why, 'end')
  assert.deepEqual(
    found.map(({ fact: { t: _t, m: _m, ...body } }) => body),
    SAMPLES.map(({ t: _t, m: _m, ...body }) => body),
  )
  for (const [i, { next }] of found.entries())
    assert.equal(readAll(path, next).found.length, found.length - i - 1)
  assert.equal(fs.statSync(path).mode & 0o777, 0o600)
})

test('reads exactly the whole records of a journal cut at any byte, and a writer cuts there', (t) => {
  const dir = tempDir(t)
  const records = SAMPLES.slice(12, 14).map((fact) => frame(Buffer.from(JSON.stringify(fact))))
  const whole = Buffer.concat([MAGIC, ...records])
  const ends = records.map((_, i) => Buffer.concat([MAGIC, ...records.slice(0, i + 1)]).length)
  for (let cut = 0; cut <= whole.length; cut++) {
    const path = join(dir, 'torn.wal')
    fs.writeFileSync(path, whole.subarray(0, cut))
    const expected = ends.filter((end) => end <= cut).length
    assert.equal(readAll(path).found.length, expected, `cut at ${cut}`)
    const journal = Journal.open(path)
    journal.append({ k: 'session.stalled', reason: 'after' })
    journal.close()
    const { found, end } = readAll(path)
    assert.equal(end.why, 'end')
    assert.equal(found.length, expected + 1)
    assert.equal(found.at(-1)?.fact.k, 'session.stalled')
  }
})

test('stops at a record with any one byte changed, and never reads one behind it', (t) => {
  const path = join(tempDir(t), 'bad.wal')
  const first = frame(Buffer.from(JSON.stringify(SAMPLES[12])))
  const whole = Buffer.concat([MAGIC, first, frame(Buffer.from(JSON.stringify(SAMPLES[13])))])
  for (let i = MAGIC.length; i < MAGIC.length + first.length; i++) {
    const changed = Buffer.from(whole)
    changed[i]! ^= 0x40
    fs.writeFileSync(path, changed)
    const { found, end } = readAll(path)
    assert.equal(found.length, 0, `byte ${i}`)
    assert.notEqual(end.why, 'end')
  }
})

test('takes a record that is whole but no fact as a gap and goes on', (t) => {
  const path = join(tempDir(t), 'run.wal')
  const good = Buffer.from(JSON.stringify(SAMPLES[5]))
  const strange = [
    'null',
    '{}',
    '[]',
    '{"k":"file.delete","path":"/x","t":1,"m":1,"extra":1}',
    '{"k":"evil","t":1,"m":1}',
    '{"k":"file.delete","path":7,"t":1,"m":1}',
    '{"k":"file.delete","path":"/x","t":-1,"m":1}',
    '{"k":"file.delete","path":"/x","t":1e99,"m":1}',
    '\u00ff',
    '{"__proto__":{}}',
  ]
  fs.writeFileSync(
    path,
    Buffer.concat([MAGIC, ...strange.flatMap((text) => [frame(Buffer.from(text, 'latin1')), frame(good)])]),
  )
  const { found, end } = readAll(path)
  assert.equal(end.why, 'end')
  assert.deepEqual(
    found.map(({ fact }) => fact.k),
    strange.flatMap(() => ['gap', SAMPLES[5]!.k]),
  )
})

test('refuses a symbolic link, a directory and a foreign file, and leaves them as they are', (t) => {
  const dir = tempDir(t)
  fs.writeFileSync(join(dir, 'foreign'), 'something else entirely')
  fs.symlinkSync(join(dir, 'target'), join(dir, 'link'))
  fs.mkdirSync(join(dir, 'dir'))
  Journal.open(join(dir, 'ok.wal')).close()
  assert.throws(() => Journal.open(join(dir, 'foreign')), { code: 'ERR_JOURNAL_CORRUPT' })
  assert.throws(() => Journal.open(join(dir, 'link')), { code: 'ERR_JOURNAL_FAILED' })
  assert.throws(() => Journal.open(join(dir, 'dir')), { code: 'ERR_JOURNAL_FAILED' })
  assert.equal(fs.readFileSync(join(dir, 'foreign'), 'utf8'), 'something else entirely')
  assert.ok(!fs.existsSync(join(dir, 'target')))
})

test('is dead after a write that failed: a full disk refuses this and every later record', (t) => {
  const dir = tempDir(t)
  // A small file system of its own, in namespaces of its own; fills up for real.
  const script = `
    import { Journal } from '${import.meta.resolve('../../src/audit/journal.ts')}'
    import { readJournal } from '${import.meta.resolve('../../src/audit/journal.ts')}'
    import { rmSync, writeFileSync } from 'node:fs'
    const journal = Journal.open('${dir}/m/run.wal')
    const codes = []
    journal.onFailure((error) => codes.push('told:' + error.code))
    const append = (path) => { try { journal.append({ k: 'file.delete', path }); codes.push('ok') } catch (error) { codes.push(error.code) } }
    append('/first')
    writeFileSync('${dir}/m/ballast', '')
    try { writeFileSync('${dir}/m/ballast', Buffer.alloc(1 << 20)) } catch { codes.push('full') }
    append('x'.repeat(100000))
    rmSync('${dir}/m/ballast')
    append('/small, and there is space again')
    await journal.sync().catch((error) => codes.push(error.code))
    codes.push([...readJournal('${dir}/m/run.wal')].length)
    console.log(JSON.stringify(codes))`
  fs.mkdirSync(join(dir, 'm'))
  fs.writeFileSync(join(dir, 's.mjs'), script)
  const shell = `mount -t tmpfs -o size=256k none ${dir}/m && exec ${process.execPath} ${dir}/s.mjs`
  const out = execFileSync('unshare', ['-Urm', 'sh', '-c', shell], { encoding: 'utf8' })
  assert.deepEqual(JSON.parse(out), [
    'ok',
    'full',
    'told:ERR_JOURNAL_FAILED',
    'ERR_JOURNAL_FAILED',
    'ERR_JOURNAL_FAILED',
    'ERR_JOURNAL_FAILED',
    1,
  ])
})

test('concurrent syncs share a flush; one that starts during a flush waits for the next', async (t) => {
  const path = join(tempDir(t), 'run.wal')
  const journal = Journal.open(path)
  for (let round = 0; round < 50; round++) {
    journal.append({ k: 'file.delete', path: `/${round}` })
    const before = journal.sync()
    journal.append({ k: 'file.delete', path: `/${round}b` })
    await Promise.all([before, journal.sync(), journal.sync()])
  }
  journal.close()
  assert.throws(() => journal.append({ k: 'file.delete', path: '/late' }), TypeError)
  assert.equal(readAll(path).found.length, 100)
})

test('the barrier fails, for ever, when a journal of the session is cut or removed', async (t) => {
  for (const harm of [(path: string) => fs.truncateSync(path, 8), (path: string) => fs.rmSync(path)]) {
    const dir = tempDir(t)
    const own = Journal.open(join(dir, 'run.wal'))
    const barrier = new Barrier(own, [join(dir, 'view.wal'), join(dir, 'launch.wal')])
    await barrier.sync()
    const view = Journal.open(join(dir, 'view.wal'))
    view.append({ k: 'file.delete', path: '/x' })
    await Promise.all([barrier.sync(), barrier.sync()])
    harm(join(dir, 'view.wal'))
    await assert.rejects(barrier.sync(), { code: 'ERR_JOURNAL_FAILED' })
    view.append({ k: 'file.delete', path: '/y' })
    await assert.rejects(barrier.sync(), { code: 'ERR_JOURNAL_FAILED' })
    barrier.close()
    view.close()
    own.close()
  }
})

test('reads the shared fixture as its Rust twin must', (t) => {
  const dir = tempDir(t)
  const cases = JSON.parse(
    fs.readFileSync(join(import.meta.dirname, '../fixtures/journal/cases.json'), 'utf8'),
  )
  for (const { name, hex, facts, end, why } of cases) {
    const path = join(dir, 'case.wal')
    fs.writeFileSync(path, Buffer.from(hex, 'hex'))
    const result = readAll(path)
    assert.deepEqual([result.found.length, result.end.offset, result.end.why], [facts, end, why], name)
  }
})

test('bounds lists and refuses unknown fields of a fact', () => {
  const launch = SAMPLES.find(({ k }) => k === 'process.launch')
  const bytes = (fact: unknown): Buffer => Buffer.from(JSON.stringify(fact))
  assert.ok(parseFact(bytes(launch)))
  assert.throws(() => parseFact(bytes({ ...launch, argv: Array(5000).fill('') })))
  assert.throws(() => parseFact(bytes({ ...launch, more: 1 })))
})

test('A-16: a journal that reaches its limit is dead, and what it holds stays whole', (t) => {
  const path = join(tempDir(t), 'run.wal')
  const journal = Journal.open(path, 4096)
  let why = ''
  journal.onFailure((error) => (why = error.why))
  const append = () => journal.append({ k: 'session.stalled', reason: 'x'.repeat(500) })
  assert.throws(() => {
    for (let count = 0; count < 100; count++) append()
  }, /ERR_JOURNAL_FAILED|has reached 4096 bytes/)
  assert.match(why, /has reached 4096 bytes/)
  // A smaller record would fit; a dead journal takes none.
  assert.throws(() => journal.append({ k: 'session.thaw', by: 'x' }))
  journal.close()
  const { found, end } = readAll(path)
  assert.equal(end.why, 'end')
  assert.ok(found.length >= 6 && fs.statSync(path).size <= 4096)
})

test('A-16: what was queued in the turn that reaches the limit is on record', (t) => {
  const path = join(tempDir(t), 'run.wal')
  const journal = Journal.open(path, 4096)
  let queued = 0
  assert.throws(() => {
    for (; queued < 100; queued++) journal.queue({ k: 'session.stalled', reason: 'x'.repeat(500) })
  }, /has reached 4096 bytes/)
  journal.close()
  assert.ok(queued >= 6)
  assert.equal(readAll(path).found.length, queued)
})

test('writes queued facts at once and in order: with the next append, with a sync, or when the turn ends', async (t) => {
  const path = join(tempDir(t), 'run.wal')
  const journal = Journal.open(path)
  const kinds = () =>
    readAll(path).found.map(({ fact }) => (fact.k === 'session.stalled' ? fact.reason : fact.k))
  const stalled = (reason: string) => ({ k: 'session.stalled', reason }) as const
  journal.queue(stalled('1'))
  assert.deepEqual(kinds(), [])
  journal.append(stalled('2'))
  assert.deepEqual(kinds(), ['1', '2'])
  journal.queue(stalled('3'))
  journal.queue(stalled('4'))
  await journal.sync()
  assert.deepEqual(kinds(), ['1', '2', '3', '4'])
  journal.queue(stalled('5'))
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(kinds(), ['1', '2', '3', '4', '5'])
  journal.queue(stalled('6'))
  journal.close()
  assert.deepEqual(kinds(), ['1', '2', '3', '4', '5', '6'])
})

test('a journal that is closed while two syncs wait has not failed', async (t) => {
  const journal = Journal.open(join(tempDir(t), 'run.wal'))
  let failures = 0
  journal.onFailure(() => failures++)
  journal.append({ k: 'file.delete', path: '/1' })
  const first = journal.sync()
  journal.append({ k: 'file.delete', path: '/1' })
  const second = journal.sync()
  journal.close()
  const [one, two] = await Promise.allSettled([first, second])
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.equal(one.status, 'rejected')
  assert.match(String(two.status === 'rejected' && two.reason), /closed/)
  assert.equal(failures, 0)
})
