/** The frequent kinds of fact become entries natively: the same bytes as by the plain way, or none at all. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Fact } from '../../src/audit/fact.ts'
import { EventEncoder, encodeEvent, toEvent } from '../../src/audit/ocsf.ts'
import { parseFact } from '../../src/audit/parse-fact.ts'
import { parseBundle } from '../../src/audit/tiles.ts'
import { type FactRun, native } from '../../src/lib/native.ts'
import { SAMPLES, frame } from './samples.ts'

const start = SAMPLES.find((fact) => fact.k === 'session.start') as Extract<Fact, { k: 'session.start' }>
const session = 's"\\a\u2028'
const kinds = native().frequentKinds()
const frequent = SAMPLES.filter(({ k }) => kinds.includes(k))
const bytesOf = (fact: object): Buffer => Buffer.from(JSON.stringify(fact))

const ROOM = Buffer.alloc(1 << 17)

/** What native code makes of records that begin at `offset`, and of how many. */
function natively(
  records: Buffer,
  {
    known = start as typeof start | null,
    offset = 8,
    index = 7,
    room = 1 << 17,
    most = 99,
    until = Infinity,
  } = {},
): { run: FactRun; entries: string[] } {
  const encoder = new EventEncoder({ device: { uid: 'd', hostname: 'h' }, start: known }, session).frequent(
    'run',
  )
  const bytes = ROOM.subarray(0, room)
  const run = encoder.encode(records, offset, bytes, 0, index, most, until)
  const { entries, bad } = parseBundle(bytes.subarray(0, run.written), run.count)
  assert.equal(bad, null)
  return { run, entries: entries.map(String) }
}

function plainly(payload: Buffer, known: typeof start | null = start, offset = 8, index = 7): string {
  const origin = { session, journal: 'run', offset }
  const event = toEvent(
    parseFact(payload),
    origin,
    { device: { uid: 'd', hostname: 'h' }, start: known },
    index,
  )
  return String(encodeEvent(event))
}

/** Taken, with the same bytes; the payload is then a fact, too, or `plainly` throws. */
function same(payload: Buffer, taken: boolean, known: typeof start | null = start): boolean {
  const { run, entries } = natively(frame(payload), { known })
  if (taken) assert.equal(run.count, 1, payload.toString())
  if (run.count === 1) {
    assert.equal(entries[0], plainly(payload, known), payload.toString())
    assert.equal(run.read, payload.length + 8)
  }
  return run.count === 1
}

const TEXTS = [
  'plain.txt',
  '/w/é€😀/\u202e\u2028.txt',
  '/a\nb\t\u0000\u001b]52;c;x\u0007\b\f\r"\\\u007f',
  `/long/${'x'.repeat(400)}`,
  `/long/${'é'.repeat(400)}?q=${'"'.repeat(20)}`,
  `/${'\u0001'.repeat(310)}`,
  'a?b?c',
  '?',
]
const NUMBERS = [0, 1, 9, 10, 443, 65535, 2 ** 32, Number.MAX_SAFE_INTEGER]

/** `fact` with each of its fields as `values` say. */
function* varied(fact: Fact): Generator<Fact> {
  yield fact
  for (const [key, value] of Object.entries(fact)) {
    if (key === 'k' || ['method', 'label', 'mode', 'type', 'sha256'].includes(key)) continue
    const values = typeof value === 'number' ? NUMBERS : TEXTS
    for (const other of values) if (key !== 'port' || Number(other) <= 65535) yield { ...fact, [key]: other }
  }
}

test('every frequent fact is taken, whatever its texts and numbers, with the bytes of the plain way', () => {
  assert.deepEqual(frequent.map(({ k }) => k).sort(), [...kinds].sort())
  const more = [
    ...['CONNECT', 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PUT', 'TRACE', 'PATCH'].map((method) => ({ method })),
    ...['public', 'internal', 'confidential', 'regulated'].map((label) => ({ label })),
    ...['file', 'dir', 'link', 'other'].map((type) => ({ type })),
    ...['read', 'write'].map((mode) => ({ mode })),
    { credential: null },
    { sha256: null },
    { sha256: '0123456789abcdef'.repeat(4) },
    { path: '/' },
  ]
  for (const known of [start, null])
    for (const fact of frequent) {
      for (const one of varied(fact)) same(bytesOf(one), !rounded(one), known)
      for (const change of more)
        if (Object.keys(change)[0]! in fact) same(bytesOf({ ...fact, ...change }), !('path' in change), known)
    }
})

/** JavaScript would round the sum that the event holds, or ends in a slash: left to the plain way. */
const rounded = (fact: Fact): boolean =>
  fact.k === 'http.response' && fact.bytesIn + fact.bytesOut > Number.MAX_SAFE_INTEGER

test('what is not in the usual form, or not a fact, is not taken or comes out alike', () => {
  const unusual = (fact: Fact): string[] => {
    const text = JSON.stringify(fact)
    const { k, ...rest } = fact
    return [
      ` ${text}`,
      `${text} `,
      `${text}\n`,
      `${text}x`,
      text.slice(0, -1),
      text.replace('{', '{ '),
      text.replaceAll(':1', ':01'),
      text.replaceAll(':1', ':1.0'),
      text.replaceAll(':1', ':-1'),
      text.replaceAll(':1', ':1e3'),
      text.replaceAll(':1', `:${2 ** 53}`),
      text.replaceAll(':1', ':99999999999999999999'),
      text.replaceAll('"/', '"\\/'),
      text.replaceAll('a', '\\u0061'),
      text.replaceAll('"/', '"/\\ud83d'),
      text.replaceAll('"/', '"/\\u001B'),
      text.replaceAll('"/', '"/\\u000a'),
      text.replace('}', ',"x":1}'),
      text.replace('}', ',"t":1}'),
      JSON.stringify({ ...rest, k }),
      JSON.stringify({ ...fact, k: `${k}x` }),
      ...Object.keys(fact).map((key) => JSON.stringify({ ...fact, [key]: undefined })),
      ...Object.keys(fact).map((key) => JSON.stringify({ ...fact, [key]: null })),
      ...Object.keys(fact).map((key) => JSON.stringify({ ...fact, [key]: '' })),
      ...Object.keys(fact).map((key) => JSON.stringify({ ...fact, [key]: 'constructor' })),
    ]
  }
  for (const fact of frequent) {
    for (const text of unusual(fact)) if (text !== '') same(Buffer.from(text), false)
    for (const bad of [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82]]) {
      const bytes = bytesOf(fact)
      const at = bytes.lastIndexOf('"')
      assert.equal(
        same(Buffer.concat([bytes.subarray(0, at), Buffer.from(bad), bytes.subarray(at)]), false),
        false,
      )
    }
  }
})

test('bytes changed at random: taken only with the bytes of the plain way', () => {
  const below = lcg(20261123)
  const alphabet = Buffer.from('{}[]":,\\u0019ab.e-+ tnrf/?\u00e9\u0000\u001f\u007f\u0080\u00ff', 'latin1')
  let taken = 0
  for (let i = 0; i < 8000; i++) {
    const payload = bytesOf(frequent[below(frequent.length)]!)
    for (let changes = below(3); changes >= 0; changes--)
      payload[below(payload.length)] = alphabet[below(alphabet.length)]!
    if (same(payload, false)) taken++
  }
  assert.ok(taken > 400, `${taken} of them were still usual`)
})

/** Numbers below a bound, the same ones each time. */
function lcg(seed: number): (bound: number) => number {
  let state = seed
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
}

test('a run goes on to the first record that is not whole, not sound, too late, too many or not frequent', () => {
  const records = frequent.map((fact) => frame(bytesOf(fact)))
  const all = Buffer.concat(records)
  const lengthOf = (count: number): number =>
    records.slice(0, count).reduce((sum, { length }) => sum + length, 0)
  const whole = natively(all)
  assert.equal(whole.run.count, frequent.length)
  assert.deepEqual(
    whole.run.kinds,
    kinds.map(() => 1),
  )
  assert.deepEqual([whole.run.t, whole.run.m], [frequent.at(-1)!.t, frequent.at(-1)!.m])
  for (const [i, fact] of frequent.entries())
    assert.equal(whole.entries[i], plainly(bytesOf(fact), start, 8 + lengthOf(i), 7 + i))
  const takes = (count: number, got: ReturnType<typeof natively>, next: number | undefined): void => {
    assert.deepEqual([got.run.count, got.run.read, got.run.next], [count, lengthOf(count), next])
    assert.deepEqual(got.entries, whole.entries.slice(0, count))
  }
  takes(0, natively(all, { most: 0 }), frequent[0]!.m)
  takes(3, natively(all, { most: 3 }), frequent[3]!.m)
  takes(3, natively(all, { until: frequent[2]!.m }), frequent[3]!.m)
  for (const cut of [1, 7, 8, 9, records[3]!.length - 1])
    takes(3, natively(all.subarray(0, lengthOf(3) + cut)), undefined)
  for (const at of [0, 3, 4, 7, 8, 20]) {
    const broken = Buffer.from(all)
    broken[lengthOf(3) + at]! ^= 1
    takes(3, natively(broken), undefined)
  }
  const rare = frame(bytesOf(SAMPLES.find(({ k }) => k === 'gap')!))
  takes(2, natively(Buffer.concat([...records.slice(0, 2), rare, ...records])), undefined)
})

test('too little room is said, and nothing is written beyond it', () => {
  const record = frame(bytesOf(frequent[0]!))
  const { run: whole } = natively(record)
  for (const room of [0, 1, 2, 3, whole.written - 1]) {
    const { run } = natively(record, { room })
    assert.deepEqual([run.count, run.written, run.full], [0, 0, true])
  }
  assert.equal(natively(record, { room: whole.written }).run.count, 1)
  const two = natively(Buffer.concat([record, record]), { room: 2 * whole.written - 1 }).run
  assert.deepEqual([two.count, two.full], [1, true])
  // Too long for an entry whatever the room: left to who shortens it.
  const long = frame(
    bytesOf({ ...frequent.find(({ k }) => k === 'file.open'), path: `/${'x'.repeat(40_000)}` }),
  )
  const { run } = natively(long)
  assert.deepEqual([run.count, run.full], [0, false])
})
