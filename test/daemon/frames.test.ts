import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FrameReader, MAX_FRAME, encodeFrame } from '../../src/daemon/frames.ts'

const raw = (body: string | Buffer): Buffer => {
  const bytes = Buffer.from(body as string)
  const head = Buffer.alloc(4)
  head.writeUInt32LE(bytes.length)
  return Buffer.concat([head, bytes])
}
const refused = { code: 'ERR_DAEMON_PROTOCOL' }

test('gives back messages whatever the chunks', () => {
  const messages = [
    { id: 1, op: 'hello', args: { text: 'é\u{1f600}\n' } },
    { re: 1, value: null },
    { re: 2, value: [1, 'x'] },
  ]
  const stream = Buffer.concat(messages.map(encodeFrame))
  for (const size of [1, 2, 3, 5, 7, 64, stream.length]) {
    const reader = new FrameReader()
    const got: unknown[] = []
    for (let at = 0; at < stream.length; at += size) got.push(...reader.push(stream.subarray(at, at + size)))
    assert.deepEqual(got, messages)
  }
})

test('T-12: refuses every spelling that no peer of ours writes', () => {
  const good = '{"id":1,"op":"hello","args":{}}'
  assert.deepEqual(new FrameReader().push(raw(good)), [JSON.parse(good)])
  for (const [name, bytes] of [
    ['duplicate keys', raw('{"id":1,"id":2,"op":"hello","args":{}}')],
    ['white space', raw('{ "id":1}')],
    ['a number in another form', raw('{"id":1e0}')],
    ['a lone surrogate', raw('{"id":"\\ud800"}')],
    ['an escaped control character in capitals', raw('{"id":"\\u001F"}')],
    ['a raw control character', raw('{"id":"\u0001"}')],
    ['invalid UTF-8', raw(Buffer.from([0x22, 0xff, 0x22]))],
    ['a byte order mark', raw('\ufeff1')],
    ['not JSON', raw('hello')],
    ['half of JSON', raw('{"id":1')],
    ['no bytes', Buffer.alloc(4)],
    ['1 MiB + 1', Buffer.concat([Buffer.from([1, 0, 16, 0]), Buffer.alloc(10)])],
    ['4 GiB', Buffer.from([255, 255, 255, 255])],
    ['__proto__ twice', raw('{"__proto__":1,"__proto__":2}')],
  ] as const) {
    assert.throws(() => new FrameReader().push(bytes), refused, name)
  }
})

test('takes a body of exactly 1 MiB, and a sender never makes a longer one', () => {
  const text = 'x'.repeat(MAX_FRAME - 2)
  assert.deepEqual(new FrameReader().push(encodeFrame(text)), [text])
  assert.throws(() => encodeFrame(`${text}x`), TypeError)
})
