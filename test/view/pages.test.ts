/**
 * What the kernel keeps of a file from one open to the next (native/view/src/stale.rs): all of it while the file is what
 * it was read from, and nothing that was read in the moment after a change, when the next may bear the same time.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cannotRun, inView, makeWorld } from './harness.ts'

const skip = cannotRun

const script = (host: string): string => `
import ctypes, mmap
host = ${JSON.stringify(host)}
HALF = 8 << 20
mincore = ctypes.CDLL(None).mincore
def made(letter):
    with open(host + '/big', 'r+b' if os.path.exists(host + '/big') else 'wb') as file: file.write(letter * (2 * HALF))
def kept(file):
    with mmap.mmap(file.fileno(), 2 * HALF, flags=mmap.MAP_PRIVATE) as there:
        pages = (ctypes.c_ubyte * (2 * HALF // 4096))()
        at = ctypes.c_char.from_buffer(there)
        assert mincore(ctypes.byref(at), ctypes.c_size_t(2 * HALF), pages) == 0
        del at
        return [page & 1 for page in pages]
def read():
    with open('0/big', 'rb', buffering=0) as file:
        pages = kept(file)
        text = file.read(HALF)
        while more := file.read(HALF): text += more
    assert len(text) == 2 * HALF
    return pages, len(set(text)) == 1 and chr(text[0])
def some():
    changed = time.monotonic()
    os.utime(host + '/big')
    with open('0/big', 'rb', buffering=0) as file:
        file.read(4096)
        in_time = time.monotonic() - changed < 0.015
        time.sleep(0.3)
        file.seek(HALF)
        while file.read(HALF): pass
    return in_time
time.sleep(1)
made(b'a')
result['seen'] = []
result['kept'] = []
result['young'] = any(some() for _ in range(50))
for _ in range(2):
    pages, seen = read()
    time.sleep(0.1)
    result['kept'].append('all' if all(pages) else 'later' if pages[-1] and not pages[0] else any(pages))
    result['seen'].append(seen)
# Changed behind the view, the same size, its time set back; the first look falls into the moment of the change.
for letter in (b'b', b'c'):
    times = os.stat(host + '/big')
    made(letter)
    os.utime(host + '/big', ns=(times.st_atime_ns, times.st_mtime_ns))
    for pause in (0, 0.1, 0.1):
        time.sleep(pause)
        result['seen'].append(read()[1])
`

test('a large file that did not change is not read again, one that did is', { skip }, async (t) => {
  const world = makeWorld([{ access: 'write' }])
  t.after(() => world.remove())
  const result = await inView(world, script(world.root(0)))
  assert.deepEqual(result, { seen: Array.from('aabbbccc'), young: true, kept: ['later', 'all'] })
})
