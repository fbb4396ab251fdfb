import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Ajv } from 'ajv'
import type { Fact } from '../../src/audit/fact.ts'
import { EventEncoder, type OcsfEvent, encodeEvent, toEvent } from '../../src/audit/ocsf.ts'
import { parseFact } from '../../src/audit/parse-fact.ts'
import { SAMPLES } from './samples.ts'

const file = join(import.meta.dirname, '../fixtures/ocsf/classes.json')
const { $defs, classes } = JSON.parse(readFileSync(file, 'utf8'))
const ajv = new Ajv({ strict: false, allErrors: true })
const schemas = new Map(
  Object.entries(classes).map(([uid, schema]) => [
    Number(uid),
    ajv.compile({ ...(schema as object), $defs }),
  ]),
)

const start = SAMPLES.find((fact) => fact.k === 'session.start') as Extract<Fact, { k: 'session.start' }>
const origin = { session: 's-a', journal: 'run', offset: 8 }
const context = { device: { uid: 'd', hostname: 'h' }, start }
const eventOf = (fact: Fact, index = 7): OcsfEvent => toEvent(fact, origin, context, index)

function faults(event: OcsfEvent): string {
  const validate = schemas.get(event.class_uid)
  if (!validate) return `no schema of class ${event.class_uid}`
  return validate(event) ? '' : ajv.errorsText(validate.errors)
}

test('every kind of fact becomes a valid event of its class, with and without its session known', () => {
  const seen = new Set<number>()
  for (const fact of SAMPLES) {
    assert.deepEqual(parseFact(Buffer.from(JSON.stringify(fact))), fact)
    assert.equal(faults(eventOf(fact)), '', fact.k)
    assert.equal(
      faults(toEvent(fact, origin, { ...context, start: null }, 0)),
      '',
      `${fact.k}, session unknown`,
    )
    seen.add(eventOf(fact).class_uid)
  }
  assert.deepEqual(
    [...seen].sort((a, b) => a - b),
    [...schemas.keys()].sort((a, b) => a - b),
  )
})

test('the schemas notice what is missing, surplus or out of range', () => {
  const event = eventOf(SAMPLES.find(({ k }) => k === 'file.open')!)
  const without = (key: string): OcsfEvent =>
    Object.fromEntries(Object.entries(event).filter(([name]) => name !== key)) as OcsfEvent
  assert.equal(faults(event), '')
  for (const key of ['file', 'actor', 'device', 'time', 'metadata', 'type_uid'])
    assert.notEqual(faults(without(key)), '', key)
  assert.notEqual(faults({ ...event, unmapped: {} }), '')
  assert.notEqual(faults({ ...event, activity_id: 77 }), '')
  assert.notEqual(faults({ ...event, file: { path: '/x' } }), '')
  assert.notEqual(faults({ ...event, actor: {} }), '')
})

test('says what was decided, by which rule, in which session', () => {
  const denied = eventOf(SAMPLES.find(({ k }) => k === 'http.denied')!)
  assert.deepEqual(
    [denied.class_uid, denied.activity_id, denied.action_id, denied.disposition_id],
    [4002, 99, 2, 2],
  )
  assert.deepEqual(denied.firewall_rule, { uid: 'network[0]' })
  assert.deepEqual(
    [denied.ambit.session, denied.ambit.profile, denied.ambit.decision, denied.ambit.rule],
    ['s-a', 'writer', 'deny', 'network[0]'],
  )
  assert.deepEqual([denied.metadata.uid, denied.metadata.sequence], ['s-a:run:8', 7])
  const allowed = eventOf(SAMPLES.find(({ k }) => k === 'http.request')!)
  assert.deepEqual([allowed.activity_id, allowed.action_id], [6, 1])
})

test('no fact loses a field on its way: each value is found in the event', () => {
  for (const fact of SAMPLES) {
    const text = JSON.stringify(eventOf(fact))
    for (const [key, value] of Object.entries(fact)) {
      if (
        key === 'k' ||
        typeof value === 'boolean' ||
        value === null ||
        value === '' ||
        typeof value === 'object'
      )
        continue
      // `path` of a request is split into path and query.
      const wanted = key === 'path' && fact.k.startsWith('http') ? String(value).split('?')[0]! : value
      const known = fact.k === 'file.open' && key === 'mode' ? '"mode"' : JSON.stringify(wanted)
      assert.ok(text.includes(known), `${fact.k}.${key}`)
    }
  }
})

test('a word that every JavaScript object knows is a word like any other', () => {
  const denied = SAMPLES.find(({ k }) => k === 'http.denied') as Extract<Fact, { k: 'http.denied' }>
  const event = eventOf({ ...denied, method: 'constructor' })
  assert.deepEqual([event.activity_id, event.activity_name, faults(event)], [99, 'constructor', ''])
})

test('H-04, A-15: hostile texts stay one JSON line and are kept as they are', () => {
  const fact = SAMPLES.find(({ k }) => k === 'file.open') as Extract<Fact, { k: 'file.open' }>
  const bytes = encodeEvent(eventOf(fact))
  assert.ok(!bytes.includes(0x0a) && !bytes.includes(0x1b))
  assert.equal(JSON.parse(bytes.toString()).file.path, fact.path)
})

test('the encoder of a session gives the same bytes as the plain one, for every kind of fact', () => {
  const many: Fact[] = [
    ...SAMPLES,
    ...SAMPLES.filter((fact) => fact.k === 'file.denied').map((fact) => ({ ...fact, count: 12 })),
    { ...start, argv: Array.from({ length: 4096 }, (_, i) => `\u202e${i}`.repeat(20)) },
  ]
  for (const known of [start, null])
    for (const fact of many)
      for (const index of [0, 7, 2 ** 40]) {
        const place = { ...origin, session: 's"\\a\u2028' }
        const plain = encodeEvent(toEvent(fact, place, { ...context, start: known }, index))
        const quick = new EventEncoder({ ...context, start: known }, place.session).encode(fact, place, index)
        assert.equal(quick.toString(), plain.toString(), fact.k)
      }
})
