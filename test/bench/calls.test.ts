/** Counts from what strace writes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { counted } from '../../bench/calls.ts'

const OPEN = String.raw`"\x30\x00\x00\x00\x0e\x00\x00\x00"...`
const TEXT = String.raw`"\x30\x00\x00\x00\x0e\x00\x00\x01"...`

const plain = ({ calls, requests, empty }: Awaited<ReturnType<typeof counted>>) => ({
  calls: Object.fromEntries(calls),
  requests: Object.fromEntries(requests),
  empty,
})

test('a call is counted once, also when another thread came between its begin and its end', async () => {
  const lines = [
    '17    openat2(5, "\\x61", {flags=O_RDONLY}, 24) = 9',
    '17    read(4,  <unfinished ...>',
    '18    write(4, "\\x10"..., 16)       = 16',
    `17    <... read resumed>${OPEN}, 1052672) = 48`,
    '18    read(4, 0x7f0000, 1052672)        = -1 EAGAIN (Resource temporarily unavailable)',
    '18    +++ exited with 0 +++',
  ]
  assert.deepEqual(plain(await counted(lines)), {
    calls: { openat2: 1, read: 2, write: 1 },
    requests: { OPEN: 1 },
    empty: 1,
  })
})

test('what a read gives is a request only when its own length says so', async () => {
  const read = (bytes: string, length: number): string => `17    read(4, ${bytes}, 1052672) = ${length}`
  const requests = async (line: string) => plain(await counted([line])).requests
  assert.deepEqual(await requests(read(OPEN, 48)), { OPEN: 1 })
  assert.deepEqual(await requests(read(OPEN, 49)), {})
  assert.deepEqual(await requests(read(TEXT, 48)), { 'opcode 16777230': 1 })
  assert.deepEqual(await requests('17    read(4, "\\x30\\x00", 10) = 2'), {})
})
