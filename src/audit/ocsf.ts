/**
 * Facts as OCSF 1.8.0 events (https://schema.ocsf.io/1.8.0): one fact, one event. This file makes the envelope, which
 * is the same for all; ocsf-classes.ts says what each kind of fact is in OCSF's words.
 *
 * What OCSF has no attribute for stands under the top-level key `ambit`, never under `unmapped`.
 */
import { createHash } from 'node:crypto'
import { type EventFrame, type FactEncoder, native } from '../lib/native.ts'
import type { Fact } from './fact.ts'
import { type Mapped, mapFact } from './ocsf-classes.ts'
import { PRODUCT } from './product.ts'
import { MAX_ENTRY } from './tiles.ts'

/** Where a fact comes from: `<session>:<journal>:<offset>` names it for ever. */
export interface Origin {
  readonly session: string
  /** `run`, `view`, `launch` or `daemon`. */
  readonly journal: string
  /** Byte offset of its record. */
  readonly offset: number
}

/** What is known of a session beside the fact itself. `start` is null when its first record is lost. */
export interface EventContext {
  readonly device: { readonly uid: string; readonly hostname: string }
  readonly start: Extract<Fact, { k: 'session.start' }> | null
}

/** One OCSF event; the attributes of its class come beside these. */
export interface OcsfEvent {
  readonly class_uid: number
  readonly category_uid: number
  readonly activity_id: number
  readonly type_uid: number
  readonly severity_id: number
  readonly time: number
  readonly message: string
  readonly metadata: Readonly<Record<string, unknown>>
  readonly ambit: Readonly<Record<string, unknown>>
  readonly [attribute: string]: unknown
}

/** The event of `fact`, which will be entry `index` of the log. Pure. */
export function toEvent(fact: Fact, origin: Origin, context: EventContext, index: number): OcsfEvent {
  const mapped = mapFact(fact)
  const { effect, ambit } = mapped
  return {
    ...whatHappened(mapped, fact.t),
    actor: actorOf(context, origin.session),
    device: deviceOf(context),
    ...policyOf(context),
    ...(ambit.rule ? { firewall_rule: { uid: ambit.rule } } : {}),
    metadata: {
      version: '1.8.0',
      product: PRODUCT,
      profiles: ['security_control', 'host'],
      uid: `${origin.session}:${origin.journal}:${origin.offset}`,
      sequence: index,
      correlation_uid: origin.session,
    },
    ambit: {
      session: origin.session,
      kind: fact.k,
      journal: origin.journal,
      offset: origin.offset,
      monotonic: fact.m,
      profile: context.start?.profile ?? null,
      decision: effect ?? null,
      ...ambit,
    },
  }
}

/** Profile `security_control`: what was done about it. */
function control(effect: Mapped['effect']): Record<string, number> {
  if (effect === 'allow') return { action_id: 1, disposition_id: 1 }
  if (effect === 'deny') return { action_id: 2, disposition_id: 2 }
  return { action_id: 0, disposition_id: effect === 'ask' ? 0 : 17 }
}

function actorOf({ start }: EventContext, session: string): Record<string, unknown> {
  const whole = { session: { uid: session } }
  if (!start) return whole
  return { ...whole, user: { name: start.user, uid: String(start.uid) }, app_name: start.agent.name }
}

const deviceOf = ({ device }: EventContext): Record<string, unknown> => ({
  uid: device.uid,
  hostname: device.hostname,
  type_id: 0,
  os: { name: 'Linux', type_id: 200 },
})

/** The part of an event that its fact alone decides; the same order of fields in both forms. */
function whatHappened(
  { class_uid, activity_id, severity, effect, attributes, message, status }: ReturnType<typeof mapFact>,
  time: number,
) {
  return {
    class_uid,
    category_uid: Math.floor(class_uid / 1000),
    activity_id,
    type_uid: class_uid * 100 + activity_id,
    severity_id: severity ?? (effect === 'deny' ? 3 : 1),
    time,
    message: message.slice(0, 300),
    ...(status === undefined ? null : { status_id: status === 'failure' ? 2 : 1 }),
    ...control(effect),
    ...attributes,
  }
}

const policyOf = ({ start }: EventContext): Record<string, unknown> =>
  start ? { policy: { name: start.profile, uid: start.planDigest } } : {}

/**
 * The bytes of `encodeEvent(toEvent(…))`, in half the time: what is the same for all facts of a session is made once.
 * Built for one session with its `start`.
 */
export class EventEncoder {
  readonly #context: EventContext
  readonly #session: string
  readonly #party: string
  readonly #journals = new Map<string, { readonly frame: EventFrame; native?: FactEncoder }>()

  constructor(context: EventContext, session: string) {
    this.#context = context
    this.#session = session
    const party = { actor: actorOf(context, session), device: deviceOf(context), ...policyOf(context) }
    this.#party = `,${inner(party)},`
  }

  /** `journal` is one of ours and `offset` and `index` are whole numbers: they need no escaping. */
  encode(fact: Fact, { journal, offset }: Omit<Origin, 'session'>, index: number): Buffer {
    const mapped = mapFact(fact)
    const { effect, ambit } = mapped
    const { party, origin, session, journal: place, profile } = this.#of(journal).frame
    const event = JSON.stringify(whatHappened(mapped, fact.t)).slice(0, -1)
    const rule = ambit.rule ? `"firewall_rule":{"uid":${JSON.stringify(ambit.rule)}},` : ''
    const own = inner(ambit)
    const bytes = Buffer.from(
      `${event}${party}${rule}${origin}${offset}","sequence":${index}${session}${fact.k}${place}${offset}` +
        `,"monotonic":${fact.m}${profile}${effect ? `"${effect}"` : 'null'}${own === '' ? '' : ','}${own}}}`,
    )
    if (bytes.length <= MAX_ENTRY) return bytes
    return encodeEvent(toEvent(fact, { session: this.#session, journal, offset }, this.#context, index))
  }

  /** The same for the frequent kinds of fact, by the run. */
  frequent(journal: string): FactEncoder {
    const of = this.#of(journal)
    of.native ??= new (native().FactEncoder)(of.frame)
    return of.native
  }

  #of(journal: string): { readonly frame: EventFrame; native?: FactEncoder } {
    const known = this.#journals.get(journal)
    if (known) return known
    const session = JSON.stringify(this.#session).slice(1, -1)
    const made = {
      frame: {
        party: this.#party,
        origin: `"metadata":{"version":"1.8.0",${CONSTANT},"uid":"${session}:${journal}:`,
        session: `,"correlation_uid":"${session}"},"ambit":{"session":"${session}","kind":"`,
        journal: `","journal":"${journal}","offset":`,
        profile: `,"profile":${JSON.stringify(this.#context.start?.profile ?? null)},"decision":`,
      },
    }
    this.#journals.set(journal, made)
    return made
  }
}

/** JSON of an object without its braces. */
const inner = (object: object): string => JSON.stringify(object).slice(1, -1)

const CONSTANT = inner({ product: PRODUCT, profiles: ['security_control', 'host'] })

/**
 * The event's bytes as a log entry. One that is too long keeps its structure and loses the ends of its longest texts
 * and lists; `ambit.truncated` holds the SHA-256 and length of the whole.
 */
export function encodeEvent(event: OcsfEvent): Buffer {
  const whole = Buffer.from(JSON.stringify(event))
  if (whole.length <= MAX_ENTRY) return whole
  const truncated = { sha256: createHash('sha256').update(whole).digest('hex'), bytes: whole.length }
  for (let limit = 16_384; limit >= 16; limit /= 4) {
    const cut = shorten(event, limit) as OcsfEvent
    const metadata = { ...cut.metadata, is_truncated: true, untruncated_size: whole.length }
    const bytes = Buffer.from(JSON.stringify({ ...cut, metadata, ambit: { ...cut.ambit, truncated } }))
    if (bytes.length <= MAX_ENTRY) return bytes
  }
  throw new TypeError('event too long for the log at any cut')
}

/** Texts to `limit` characters, lists to as many items; never between the halves of a character. */
function shorten(value: unknown, limit: number): unknown {
  if (typeof value === 'string')
    return value.length <= limit ? value : `${value.slice(0, limit).toWellFormed()}…`
  if (Array.isArray(value)) return value.slice(0, limit).map((item) => shorten(item, limit))
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shorten(item, limit)]))
}
