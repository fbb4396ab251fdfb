/** Streams that are broken off because too much waits, or that are over: what they give then, and what they count for. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { gather } from '../../src/gate/backlog.ts'

const MIB = 1 << 20

/** A stream that others fill; destroyed when there is too much. */
function gathered(): Readable {
  const stream = new Readable({ read: () => undefined })
  gather(stream)
  return stream.on('error', () => undefined)
}

/** Pieces and the end in one turn, to a reader that goes on behind them; the bytes and how it was over. */
async function sixty(): Promise<{ bytes: number; how: string }> {
  const stream = gathered()
  let bytes = 0
  stream.on('data', (chunk: Buffer) => (bytes += chunk.length)).pause()
  for (let count = 0; count < 3; count++) stream.push(Buffer.alloc(20_000))
  stream.push(null)
  stream.resume()
  const ended = once(stream, 'end').then(() => 'end')
  const how = await Promise.race([ended, once(stream, 'close').then(() => 'close')])
  return { bytes, how }
}

test('a stream that is broken off does not end as if it were whole', async () => {
  const others = Array.from({ length: 128 }, gathered)
  for (const other of others) other.push(Buffer.alloc(MIB))
  const { bytes, how } = await sixty()
  assert.ok(bytes < 60_000)
  assert.equal(how, 'close')
  await Promise.all(others.map((other) => once(other.destroy(), 'close')))
  // Positive control: where there is room all of it comes.
  assert.deepEqual(await sixty(), { bytes: 60_000, how: 'end' })
})

test('a stream that is over counts for nothing, whatever is asked of it', async () => {
  for (let count = 0; count < 5; count++) {
    const stream = gathered()
    stream.push(Buffer.alloc(32 * MIB))
    stream.destroy()
    await once(stream, 'close')
    stream.pause()
  }
  const next = gathered()
  next.push(Buffer.alloc(1000))
  await sleep(50)
  assert.equal(next.destroyed, false)
  // Positive control: those that are not over do count.
  const kept = Array.from({ length: 5 }, gathered)
  for (const stream of kept) stream.push(Buffer.alloc(32 * MIB))
  await sleep(50)
  assert.ok(kept.some((stream) => stream.destroyed))
})
