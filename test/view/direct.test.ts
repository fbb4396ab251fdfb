/**
 * A new file that is opened to be written only is written past the kernel's pages (native/view/src/stale.rs): who reads
 * or maps it meanwhile sees each write, and what it holds is on record like any other.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { cannotRun, facts, inView, makeWorld } from './harness.ts'

const skip = cannotRun

const WRITTEN = `
import mmap
fd = os.open('0/new', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
os.write(fd, b'first')
reader = os.open('0/new', os.O_RDONLY)
mapped = mmap.mmap(reader, 5, prot=mmap.PROT_READ)
seen = [mapped[:].decode()]
for text in (b'again', b'third'):
    os.pwrite(fd, text, 0)
    seen.append(os.pread(reader, 9, 0).decode())
    end = time.monotonic() + 5
    while mapped[:] != text and time.monotonic() < end: time.sleep(0.005)
    seen.append(mapped[:].decode())
os.close(fd)
fd = os.open('0/new', os.O_WRONLY | os.O_APPEND)
os.write(fd, b', more')
seen.append(os.pread(reader, 99, 0).decode())
os.close(fd)
result['seen'] = seen
# Pieces of every size, over page borders, and a hole.
fd = os.open('0/pieces', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
want = b''
for size in (1, 4095, 1, 4097, 70000, 1 << 20, (1 << 20) + 1):
    want += bytes([size % 251]) * size
    os.write(fd, want[-size:])
os.close(fd)
result['pieces'] = open('0/pieces', 'rb').read() == want
fd = os.open('0/hole', os.O_WRONLY | os.O_CREAT, 0o644)
os.pwrite(fd, b'end', 10000)
os.close(fd)
result['hole'] = open('0/hole', 'rb').read() == bytes(10000) + b'end'
`

for (const access of ['write', 'review'] as const) {
  test(`new files under ${access} are read and mapped while they are written`, { skip }, async () => {
    const world = makeWorld([{ access }])
    try {
      const result = await inView(world, WRITTEN)
      const seen = ['first', 'again', 'again', 'third', 'third', 'third, more']
      assert.deepEqual(result, { seen, pieces: true, hole: true })
      const layer = access === 'write' ? world.root(0) : join(world.dir, 'upper0', 'files')
      const path = join(world.root(0), 'hole')
      const sha256 = createHash('sha256')
        .update(readFileSync(join(layer, 'hole')))
        .digest('hex')
      const all = facts(world).filter((fact) => 'path' in fact && fact.path === path)
      assert.deepEqual(
        all.slice(0, 2).map(({ k }) => k),
        ['file.create', 'file.open'],
      )
      const written = all.find(({ k }) => k === 'file.write')
      assert.partialDeepStrictEqual(written, { size: 10003, sha256 })
    } finally {
      world.remove()
    }
  })
}
