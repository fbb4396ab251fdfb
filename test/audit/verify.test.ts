import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { signCheckpoint } from '../../src/audit/checkpoint.ts'
import { EntryBatch } from '../../src/audit/entry-batch.ts'
import { Log } from '../../src/audit/log.ts'
import { formatSignerKey, parseSignerKey } from '../../src/audit/note.ts'
import { proveEntry } from '../../src/audit/prove.ts'
import { readEvents } from '../../src/audit/read.ts'
import { frameEntries, parseBundle } from '../../src/audit/tiles.ts'
import { leafHash } from '../../src/audit/tlog.ts'
import { verifyLog } from '../../src/audit/verify.ts'
import { verifyProof } from './proofs.ts'
import { tempDir } from './temp.ts'

const signer = parseSignerKey(formatSignerKey('ambit.invalid/verify', Buffer.alloc(32, 3)))
const SIZE = 600
const event = (i: number): Buffer =>
  Buffer.from(JSON.stringify({ time: i, message: `m${i}`, ambit: { session: `s${i % 2}`, kind: 'gap' } }))

const append = (log: Log, from: number, to: number): Promise<void> =>
  log.appendBatch(
    EntryBatch.of(
      log.size,
      Array.from({ length: to - from }, (_, i) => event(from + i)),
    ),
    {},
  )

async function makeLog(t: TestContext): Promise<string> {
  const dir = tempDir(t)
  const log = await Log.open({ dir, signer, lock: () => true })
  await append(log, 0, SIZE)
  await log.publish()
  log.close()
  return dir
}

/** Rewrites bundle `tile` of `dir` entry by entry. */
function rewrite(dir: string, path: string, width: number, change: (entries: Buffer[]) => void): void {
  const { entries } = parseBundle(fs.readFileSync(join(dir, path)), width)
  change(entries)
  fs.writeFileSync(join(dir, path), frameEntries(entries))
}

const flip = (path: string, at: number): void => {
  const bytes = fs.readFileSync(path)
  bytes[at]! ^= 1
  fs.writeFileSync(path, bytes)
}

/** What an attacker does with the directory, and the first bad index that verification must name. */
const HARMS: [string, number | null, (dir: string) => void][] = [
  [
    'changes an entry',
    300,
    (dir) => rewrite(dir, 'tile/entries/001', 256, (e) => void (e[44] = Buffer.from('forged'))),
  ],
  [
    'changes an entry of the last, partial bundle',
    599,
    (dir) => rewrite(dir, 'tile/entries/002.p/88', 88, (e) => void (e[87] = Buffer.from('x'))),
  ],
  [
    'swaps two entries',
    10,
    (dir) => rewrite(dir, 'tile/entries/000', 256, (e) => void ([e[10], e[20]] = [e[20]!, e[10]!])),
  ],
  ['deletes an entry', 7, (dir) => rewrite(dir, 'tile/entries/000', 256, (e) => void e.splice(7, 1))],
  [
    'deletes the last entry of a bundle',
    255,
    (dir) => rewrite(dir, 'tile/entries/000', 256, (e) => void e.pop()),
  ],
  [
    'inserts an entry',
    256,
    (dir) => rewrite(dir, 'tile/entries/001', 256, (e) => void e.unshift(Buffer.from('new'))),
  ],
  [
    'duplicates an entry',
    9,
    (dir) => rewrite(dir, 'tile/entries/000', 256, (e) => void e.splice(9, 0, e[8]!)),
  ],
  [
    'appends an entry to a bundle',
    600,
    (dir) => rewrite(dir, 'tile/entries/002.p/88', 88, (e) => void e.push(Buffer.from('x'))),
  ],
  [
    're-orders bundles',
    0,
    (dir) => {
      fs.renameSync(join(dir, 'tile/entries/000'), join(dir, 'x'))
      fs.renameSync(join(dir, 'tile/entries/001'), join(dir, 'tile/entries/000'))
      fs.renameSync(join(dir, 'x'), join(dir, 'tile/entries/001'))
    },
  ],
  ['changes a leaf hash', 258, (dir) => flip(join(dir, 'tile/0/001'), 64)],
  ['changes an upper tile', 256, (dir) => flip(join(dir, 'tile/1/000.p/2'), 32)],
  ['removes a bundle', 256, (dir) => fs.rmSync(join(dir, 'tile/entries/001'))],
  ['removes a hash tile', 512, (dir) => fs.rmSync(join(dir, 'tile/0/002.p/88'))],
  ['removes an upper tile', 0, (dir) => fs.rmSync(join(dir, 'tile/1/000.p/2'))],
  ['cuts a hash tile', 0, (dir) => fs.truncateSync(join(dir, 'tile/0/000'), 8000)],
  [
    'changes an entry together with its leaf hash',
    256,
    (dir) => {
      rewrite(dir, 'tile/entries/001', 256, (e) => void (e[44] = Buffer.from('forged')))
      const tile = fs.readFileSync(join(dir, 'tile/0/001'))
      tile.set(leafHash(Buffer.from('forged')), 44 * 32)
      fs.writeFileSync(join(dir, 'tile/0/001'), tile)
    },
  ],
  [
    'changes entry and tile where nothing but the root is above',
    null,
    (dir) => {
      rewrite(dir, 'tile/entries/002.p/88', 88, (e) => void (e[1] = Buffer.from('forged')))
      const tile = fs.readFileSync(join(dir, 'tile/0/002.p/88'))
      tile.set(leafHash(Buffer.from('forged')), 32)
      fs.writeFileSync(join(dir, 'tile/0/002.p/88'), tile)
    },
  ],
  [
    'changes the size in the checkpoint',
    null,
    (dir) =>
      fs.writeFileSync(
        join(dir, 'checkpoint'),
        fs.readFileSync(join(dir, 'checkpoint'), 'utf8').replace('600', '599'),
      ),
  ],
  [
    'signs a longer log with another key of the same name',
    null,
    (dir) => {
      const other = parseSignerKey(formatSignerKey(signer.name, Buffer.alloc(32, 4)))
      fs.writeFileSync(join(dir, 'checkpoint'), signCheckpoint(SIZE, Buffer.alloc(32), other))
    },
  ],
  ['removes the checkpoint', null, (dir) => fs.rmSync(join(dir, 'checkpoint'))],
]

test('A-10: names the first bad index, whatever is changed', async (t) => {
  const dir = await makeLog(t)
  assert.equal((await verifyLog(dir, signer.vkey)).ok, true)
  for (const [name, index, harm] of HARMS) {
    const copy = tempDir(t)
    fs.cpSync(dir, copy, { recursive: true })
    harm(copy)
    const result = await verifyLog(copy, signer.vkey)
    assert.equal(result.ok, false, name)
    assert.equal(!result.ok && result.index, index, `${name}: ${!result.ok && result.why}`)
  }
})

test('A-10: finds one changed bit in any byte of a small log', async (t) => {
  const dir = tempDir(t)
  const log = await Log.open({ dir, signer, lock: () => true })
  await append(log, 0, 3)
  await log.publish()
  log.close()
  for (const path of ['checkpoint', 'tile/0/000.p/3', 'tile/entries/000.p/3']) {
    const { size } = fs.statSync(join(dir, path))
    for (let at = 0; at < size; at++) {
      flip(join(dir, path), at)
      assert.equal((await verifyLog(dir, signer.vkey)).ok, false, `${path} byte ${at}`)
      flip(join(dir, path), at)
    }
  }
  assert.equal((await verifyLog(dir, signer.vkey)).ok, true)
})

test('proves each entry offline, and no other', async (t) => {
  const dir = await makeLog(t)
  for (const index of [0, 255, 256, 511, 599]) {
    const proof = proveEntry(dir, index)
    assert.ok(verifyProof(proof, event(index), signer.vkey))
    assert.ok(!verifyProof(proof, event(index === 0 ? 1 : index - 1), signer.vkey))
    assert.throws(() => verifyProof(proof.replace('index', 'indexes'), event(index), signer.vkey))
  }
  assert.throws(() => proveEntry(dir, SIZE), { code: 'ERR_INPUT_INVALID' })
})

test('reads the events of one session, oldest first, and reports a bundle that is gone', async (t) => {
  const dir = await makeLog(t)
  assert.deepEqual(
    [...readEvents(dir)].map(({ index }) => index),
    Array.from({ length: SIZE }, (_, i) => i),
  )
  const own = [...readEvents(dir, { session: 's1', from: 301 })]
  assert.equal(own.length, 150)
  assert.ok(own.every(({ session, index }) => session === 's1' && index % 2 === 1))
  assert.deepEqual([...readEvents(tempDir(t))], [])
  fs.rmSync(join(dir, 'tile/entries/001'))
  assert.throws(() => [...readEvents(dir)], { code: 'ERR_LOG_INCONSISTENT' })
})

test('a reader with an older checkpoint reads on while the log grows', async (t) => {
  const dir = tempDir(t)
  const log = await Log.open({ dir, signer, lock: () => true })
  await append(log, 0, 2)
  await log.publish()
  const old = fs.readFileSync(join(dir, 'checkpoint'))
  for (let i = 2; i < 300; i += 60) {
    await append(log, i, i + 60)
    await log.publish()
    const current = fs.readFileSync(join(dir, 'checkpoint'))
    fs.writeFileSync(join(dir, 'checkpoint'), old)
    assert.deepEqual(((await verifyLog(dir, signer.vkey)) as { size: number }).size, 2)
    fs.writeFileSync(join(dir, 'checkpoint'), current)
  }
  log.close()
})

const go = spawnSync('go', ['version'], { encoding: 'utf8' }).status === 0

test('a program on golang.org/x/mod accepts the log and refuses it once changed', {
  skip: go ? false : 'no go here',
}, async (t) => {
  const bin = join(tempDir(t), 'go-verify')
  execFileSync('go', ['build', '-buildvcs=false', '-o', bin, '.'], {
    cwd: join(import.meta.dirname, '../fixtures/go-verify'),
    stdio: 'pipe',
  })
  const dir = await makeLog(t)
  const run = (where: string) => spawnSync(bin, [where, signer.vkey], { encoding: 'utf8' })
  const root = ((await verifyLog(dir, signer.vkey)) as { root: string }).root
  assert.equal(run(dir).stdout, `ok ${SIZE} ${root}\n`)
  for (const [name, , harm] of HARMS) {
    const copy = tempDir(t)
    fs.cpSync(dir, copy, { recursive: true })
    harm(copy)
    assert.equal(run(copy).status, 1, name)
  }
})

test('a log whose files are pipes or endless is faulty, and is not waited for', async (t) => {
  for (const [path, make] of [
    ['checkpoint', (place: string) => void execFileSync('mkfifo', [place])],
    ['checkpoint', (place: string) => fs.symlinkSync('/dev/zero', place)],
    ['tile/0/000', (place: string) => void execFileSync('mkfifo', [place])],
    ['tile/entries/001', (place: string) => fs.symlinkSync('/dev/zero', place)],
  ] as const) {
    const dir = await makeLog(t)
    assert.ok((await verifyLog(dir, signer.vkey)).ok, 'control')
    fs.rmSync(join(dir, path))
    make(join(dir, path))
    const verdict = await verifyLog(dir, signer.vkey)
    assert.ok(!verdict.ok && /no regular file/.test(verdict.why), `${path}: ${JSON.stringify(verdict)}`)
  }
})
