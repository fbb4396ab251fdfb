/** The quota against an agent that wants more than it has, through a real mount. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { cannotRun, facts, inView, makeWorld, own } from './harness.ts'

const skip = cannotRun
const MIB = 1 << 20

/** `grow(n)` writes a file of n MiB; `room()` says how many MiB there are room for, up to 40. */
const GROW = `
def grow(path, mib):
    with open(path, 'wb', buffering=0) as f:
        for _ in range(mib): f.write(b'x' * (1 << 20))
def room():
    attempt(grow, '0/rest', 40)
    return os.stat('0/rest').st_blocks * 512 >> 20
`

/** Ways to have the space of one file given back more than once. */
const TWICE: Readonly<Record<string, string>> = {
  'cut through two of its names at once': `
grow('0/a', 4); os.link('0/a', '0/b')
held = [os.open('0/' + name, os.O_WRONLY) for name in 'ab']
os.ftruncate(held[0], 0)
for fd in held: os.close(fd)
os.unlink('0/a'); os.unlink('0/b')`,
  'held for writing by one name, removed by the other': `
fd = os.open('0/a', os.O_RDWR | os.O_CREAT)
for _ in range(4): os.write(fd, b'x' * (1 << 20))
os.link('0/a', '0/b'); os.unlink('0/a'); os.unlink('0/b'); time.sleep(0.05)
os.ftruncate(fd, 0); os.close(fd)`,
  'held for reading by one name, removed by the other': `
grow('0/a', 2); fd = os.open('0/a', os.O_RDONLY); kept.append(fd)
os.link('0/a', '0/b'); os.unlink('0/a'); os.unlink('0/b'); time.sleep(0.05)`,
}

for (const [how, script] of Object.entries(TWICE)) {
  test(`a file counts once, ${how}`, { skip }, async (t) => {
    const world = makeWorld([{}], { bytes: 8 * MIB, inodes: 1000 })
    t.after(() => world.remove())
    const result = await inView(
      world,
      `${GROW}
kept = []
def round():${script.replaceAll('\n', '\n    ')}
result['rounds'] = [attempt(round) for _ in range(3)]
time.sleep(0.1)
result['room'] = room()
result['kept'] = sum(os.fstat(fd).st_blocks * 512 for fd in kept) >> 20
for fd in kept: os.close(fd)
os.unlink('0/rest'); time.sleep(0.1)
result['control'] = room()
`,
    )
    assert.deepEqual(result.rounds, ['ok', 'ok', 'ok'])
    const [room, kept, control] = [result.room, result.kept, result.control].map(Number) as [
      number,
      number,
      number,
    ]
    assert.ok(room + kept <= 8, `${room} + ${kept} MiB`)
    assert.ok(control >= 6 && control <= 8, `control: what is free can be used again: ${control} MiB`)
  })
}

test('a deleted file counts as long as it waits for its digest', { skip }, async (t) => {
  const world = makeWorld([{}], { bytes: 64 * MIB, inodes: 1000 })
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
def make(path, act):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try: act(fd)
    finally: os.close(fd)
for n in range(3): make('0/busy%d' % n, lambda fd: os.ftruncate(fd, 256 << 20))
def flood():
    make('0/f', lambda fd: os.posix_fallocate(fd, 0, 24 << 20))
    os.unlink('0/f'); time.sleep(0.01)
result['flood'] = [attempt(flood) for _ in range(8)]
end = time.time() + 20
while time.time() < end and attempt(flood) != 'ok': time.sleep(0.1)
result['control'] = attempt(flood)
`,
  )
  const flood = result.flood as string[]
  assert.equal(flood[0], 'ok')
  assert.ok(flood.includes('EDQUOT'), JSON.stringify(flood))
  assert.equal(result.control, 'ok', 'control: hashed or passed over, it is given back')
})

test('no size is announced that the log cannot hold', { skip }, async (t) => {
  const world = makeWorld([{ files: { f: 'text' } }])
  t.after(() => world.remove())
  const result = await inView(
    world,
    `
fd = os.open('0/f', os.O_RDWR)
result['refused'] = [
  attempt(os.truncate, '0/f', 1 << 60), attempt(os.ftruncate, fd, 1 << 60), attempt(os.truncate, '0/f', 1 << 53),
  attempt(os.pwrite, fd, b'x', 1 << 60), attempt(os.posix_fallocate, fd, 1 << 60, 1)]
result['control'] = attempt(os.truncate, '0/f', 1 << 40)
os.close(fd)
`,
  )
  assert.deepEqual(result, { refused: Array(5).fill('EFBIG'), control: 'ok' })
  const sizes = facts(world).flatMap((fact) => ('size' in fact ? [fact.size] : []))
  assert.ok(sizes.includes(2 ** 40), 'control: what happens is on record')
  assert.ok(sizes.every(Number.isSafeInteger), String(sizes))
})

test('extended attributes count', { skip }, async (t) => {
  const world = makeWorld([{}], { bytes: MIB, inodes: 1000 })
  t.after(() => world.remove())
  for (let n = 0; n < 500; n++) writeFileSync(join(world.root(0), `f${n}`), '')
  own(world.dir)
  const result = await inView(
    world,
    `
def mark(n): os.setxattr('0/f%d' % n, 'user.x', b'x' * 3000)
result['again'] = [attempt(mark, 0) for _ in range(500)].count('ok')
result['all'] = [attempt(mark, n) for n in range(500)].count('EDQUOT')
`,
  )
  assert.equal(result.again, 500, 'control: the same once more is no growth')
  assert.ok(Number(result.all) >= 100 && Number(result.all) <= 200, String(result.all))
})

test('large sparse files left to be hashed at the end do not keep the view from ending in time', {
  skip,
}, async (t) => {
  const world = makeWorld([{}])
  t.after(() => world.remove())
  const script = `
for n in range(400):
    with open(f'0/{n}', 'wb') as file: file.truncate(256 << 20)
result['at'] = time.time()
`
  const { at } = await inView(world, script)
  const drained = Date.now() / 1000 - Number(at)
  const written = facts(world).filter(({ k }) => k === 'file.write').length
  const hashed = facts(world).filter(({ k }) => k === 'file.hash')
  t.diagnostic(`${hashed.length} of ${written} hashed, ${drained.toFixed(1)} s`)
  assert.ok(drained < 15, `it took ${drained} s: the supervisor kills it`)
  assert.equal(written, 400, 'all are on record')
  assert.ok(hashed.length > 0 && hashed.length < 400, 'control: there were more than could be hashed')
})
