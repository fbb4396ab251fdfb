/** Snapshots of machines, and what is known of files that were read before: signed, verified, refused. */
import assert from 'node:assert/strict'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import type { AmbitError } from '../../src/lib/errors.ts'
import { keysDir, type Paths } from '../../src/lib/paths.ts'
import { Digests, fileIdentity } from '../../src/runtime/microvm-image/digests.ts'
import { loadOrMakeImageKey } from '../../src/runtime/microvm-image/minisign.ts'
import {
  findSnapshot,
  hasSnapshots,
  keepSnapshot,
  type Shape,
} from '../../src/runtime/microvm-image/snapshot.ts'

const dir = mkdtempSync(join(tmpdir(), 'ambit-snapshot-'))
after(() => rmSync(dir, { recursive: true, force: true }))

const digest = (digit: string): string => digit.repeat(64)
const SHAPE: Shape = {
  image: digest('1'),
  accelerator: 'tcg',
  qemu: digest('2'),
  launcher: digest('3'),
  memory: 512 << 20,
  processors: 2,
  processor: 'some processor',
}

/** Milliseconds after which a file is remembered. */
const SETTLED_MS = 2100
/** MiB of a file whose reading shows. */
const SIZE = 4

function newPaths(): Paths {
  const home = mkdtempSync(join(dir, 'home-'))
  return { config: join(home, 'config'), state: join(home, 'state'), run: join(home, 'run') }
}

const put =
  (content: string) =>
  (path: string): Promise<void> => {
    writeFileSync(path, content, { mode: 0o600 })
    return Promise.resolve()
  }

const find = (paths: Paths, shape = SHAPE) => findSnapshot(paths, shape, Digests.of(paths))

test('a snapshot is found again by its shape and by no other', async () => {
  const paths = newPaths()
  assert.equal(hasSnapshots(paths), false)
  assert.equal(await find(paths), null)
  const kept = await keepSnapshot(paths, SHAPE, put('a machine'))
  const found = await find(paths)
  assert.equal(found?.path, join(kept.dir, 'machine'))
  assert.equal(statSync(kept.dir).mode & 0o777, 0o700)
  for (const other of [
    { memory: 1 << 30 },
    { processors: 1 },
    { image: digest('4') },
    { processor: 'another' },
  ])
    assert.equal(await find(paths, { ...SHAPE, ...other }), null)
  await keepSnapshot(paths, { ...SHAPE, memory: 1 << 30 }, put('larger'))
  assert.ok(await find(paths), 'another size of the same image leaves it')
  await keepSnapshot(paths, { ...SHAPE, image: digest('4') }, put('newer'))
  assert.equal(await find(paths), null, 'another image makes it useless')
  assert.ok(!existsSync(kept.dir))
})

test('two that are made at once do not mix', async () => {
  const paths = newPaths()
  const { promise: written, resolve } = Promise.withResolvers<void>()
  const slow = keepSnapshot(paths, SHAPE, async (path) => {
    writeFileSync(path, 'half of ', { mode: 0o600 })
    await written
    writeFileSync(path, 'half of a machine')
  })
  await keepSnapshot(paths, SHAPE, put('a whole machine'))
  assert.equal(readFileSync((await find(paths))?.path ?? '', 'utf8'), 'a whole machine')
  resolve()
  await slow
  assert.equal(readFileSync((await find(paths))?.path ?? '', 'utf8'), 'half of a machine')
})

test('one that could not be written leaves nothing', async () => {
  const paths = newPaths()
  const broken = keepSnapshot(paths, SHAPE, () => Promise.reject(new Error('no machine')))
  await assert.rejects(broken, /no machine/)
  assert.equal(await find(paths), null)
})

test('a snapshot that is altered, cut, another shape’s, another’s or unsigned is refused in one line', async () => {
  const refused = async (
    alter: (dir: string, paths: Paths, other: string) => unknown,
    why: RegExp,
  ): Promise<void> => {
    const paths = newPaths()
    const kept = await keepSnapshot(paths, SHAPE, put('a machine'))
    const other = await keepSnapshot(paths, { ...SHAPE, processors: 1 }, put('a smaller machine'))
    assert.ok(await find(paths), 'control: as it was made')
    alter(kept.dir, paths, other.dir)
    await assert.rejects(find(paths), (error: AmbitError) => {
      assert.equal(error.code, 'ERR_RUNTIME_FAILED')
      assert.match(error.message, /^will not start from the snapshot .*; make it anew: ambit image warm$/)
      assert.match(error.why, why)
      return true
    })
  }
  const edit = (path: string, change: (text: string) => string): void =>
    writeFileSync(path, change(readFileSync(path, 'utf8')))
  await refused(
    (at) => edit(join(at, 'machine'), (text) => text.replace('a', 'b')),
    /not the one that was signed/,
  )
  await refused((at) => edit(join(at, 'machine'), (text) => text.slice(1)), /not the one that was signed/)
  await refused((at) => rmSync(join(at, 'machine')), /ENOENT/)
  await refused((at) => chmodSync(join(at, 'machine'), 0o644), /this account’s alone/)
  await refused(
    (at) => edit(join(at, 'snapshot.json'), (text) => text.replace(digest('1'), digest('9'))),
    /does not fit it/,
  )
  if (process.getuid?.() === 0)
    await refused((at) => chownSync(join(at, 'machine'), 1, 1), /this account’s alone/)
  await refused((at) => rmSync(join(at, 'snapshot.json.minisig')), /ENOENT/)
  await refused((at, _, other) => {
    rmSync(at, { recursive: true })
    renameSync(other, at)
  }, /another shape/)
  await refused((_, paths) => rmSync(keysDir(paths), { recursive: true }), /no image key/)
})

/** What is remembered of the files that machines start from. */
const remembered = (paths: Paths): string => join(paths.state, 'images/.digests.json')

function keyed(): Paths {
  const paths = newPaths()
  loadOrMakeImageKey(keysDir(paths))
  return paths
}

/** MiB that this process has read meanwhile. */
async function reading(work: () => Promise<unknown>): Promise<number> {
  const read = (): number => Number(/^rchar: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1])
  const before = read()
  await work()
  return (read() - before) / (1 << 20)
}

test('a file is read again once it is another, even where its time and size are put back', async () => {
  const paths = keyed()
  const path = join(dir, 'file')
  writeFileSync(path, 'first')
  const { atime, mtime } = statSync(path)
  await pause(SETTLED_MS)
  const first = await Digests.of(paths).sha256(path)
  assert.equal(await Digests.of(paths).sha256(path), first)
  assert.ok(readFileSync(remembered(paths), 'utf8').includes(path), 'control: it is remembered')
  writeFileSync(path, 'other')
  utimesSync(path, atime, mtime)
  assert.notEqual(await Digests.of(paths).sha256(path), first)
  writeFileSync(remembered(paths), '{')
  assert.notEqual(await Digests.of(paths).sha256(path), first)
})

test('what is remembered counts only where this account’s key vouches for it', async () => {
  const paths = keyed()
  const path = join(dir, 'large')
  writeFileSync(path, Buffer.alloc(SIZE << 20))
  await pause(SETTLED_MS)
  const again = (): Promise<number> => reading(() => Digests.of(paths).sha256(path))
  assert.ok((await again()) >= SIZE, 'it is not known yet')
  assert.ok((await again()) < 1, 'control: the true one is believed')
  const whole = readFileSync(remembered(paths), 'utf8')
  const told = JSON.parse(whole) as { mac: string; known: string }
  const tell = (content: object): void => writeFileSync(remembered(paths), JSON.stringify(content))
  for (const [forged, how] of [
    [{ ...told, known: told.known.replace(/[0-9a-f]{64}/, digest('0')) }, 'another digest'],
    [{ ...told, known: told.known.replace(/"\d+:/, '"0:') }, 'another file'],
    [{ ...told, mac: digest('0') }, 'another MAC'],
    [{ ...told, mac: told.mac.slice(2) }, 'half a MAC'],
    [{ known: told.known }, 'no MAC'],
    [JSON.parse(told.known) as object, 'nothing but what is told'],
  ] as const) {
    tell(forged)
    assert.ok((await again()) >= SIZE, how)
    assert.equal(readFileSync(remembered(paths), 'utf8'), whole, `${how}: the truth is remembered again`)
  }
  rmSync(keysDir(paths), { recursive: true })
  assert.ok((await again()) >= SIZE, 'without a key')
  loadOrMakeImageKey(keysDir(paths))
  assert.ok((await again()) >= SIZE, 'under another key')
})

test('a snapshot that was altered is refused, whatever is told beside the images of its bytes', async () => {
  const paths = newPaths()
  const { dir: kept } = await keepSnapshot(paths, SHAPE, put('a machine'))
  const path = join(kept, 'machine')
  await pause(SETTLED_MS)
  assert.ok(await find(paths), 'control: as it was made')
  const before = fileIdentity(path)
  const told = readFileSync(remembered(paths), 'utf8')
  assert.ok(told.includes(before), 'control: it is remembered')
  writeFileSync(path, 'b machine')
  writeFileSync(remembered(paths), told.replace(before, fileIdentity(path)))
  await assert.rejects(find(paths), /it is not the one that was signed/)
})
