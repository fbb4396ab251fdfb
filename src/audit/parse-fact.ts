/**
 * Reads one fact from a journal record. The structure is ours, the strings (paths, hosts, arguments) are the
 * agent's: so every length is bounded and no field that we do not know passes.
 */
import * as z from 'zod'
import { LABELS } from '../profile/plan.ts'
import { type Fact, MOST_WORDS } from './fact.ts'

const text = z.string().max(1 << 20)
const word = z.string().max(256)
const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)
const pid = z
  .number()
  .int()
  .min(0)
  .max(2 ** 32)
const port = z.number().int().min(0).max(65535)
const label = z.enum(LABELS)
const digest = z.string().regex(/^[0-9a-f]{64}$/)
const hex = z
  .string()
  .regex(/^([0-9a-f]{2})+$/)
  .max(1 << 16)
const argv = z.array(text).max(MOST_WORDS)
const rule = text.nullable()
const base = { t: count, m: count }

const control = z.strictObject({ control: word, state: z.enum(['fully', 'partly', 'not']), detail: text })
const tls = z.strictObject({ version: word, subject: text, issuer: text, sha256: word, notAfter: word })
const agent = z.strictObject({ name: text, version: text.nullable(), digest: text.nullable() })
const outcome = z.enum(['ended', 'failed', 'killed', 'refused', 'timeout'])
const fileType = z.enum(['file', 'dir', 'link', 'other'])
const fileChange = z.enum(['create', 'delete', 'rename', 'attributes', 'write'])
const fileRefusal = z.enum([
  'hidden',
  'protected',
  'read-only',
  'outside',
  'hard-link',
  'quota',
  'unsupported',
])
const effect = z.enum(['allow', 'deny', 'ask'])

const kind = <K extends string, S extends z.ZodRawShape>(k: K, shape: S) =>
  z.strictObject({ k: z.literal(k), ...shape, ...base })

const flow = { flow: count }
const peer = { host: text, address: word, port }
const http = { method: text, host: text, port, path: text }

const FACT = z.discriminatedUnion('k', [
  kind('session.start', {
    user: text,
    uid: count,
    profile: text,
    planDigest: word,
    sheetDigest: word,
    runtime: word,
    argv,
    agent,
    cwd: text,
  }),
  kind('session.enforced', { controls: z.array(control).max(256) }),
  kind('machine.image', {
    image: word,
    kernel: word,
    initramfs: word,
    root: word,
    commandLine: word,
    planDigest: word,
    snapshot: word.optional(),
  }),
  kind('machine.measured', { device: word, ak: hex, eventLog: hex }),
  kind('machine.quote', { nonce: hex, quote: hex, signature: hex, by: text }),
  kind('session.end', {
    outcome,
    exit: z
      .number()
      .int()
      .min(-1)
      .max(2 ** 31),
    reason: text.nullable(),
  }),
  kind('session.freeze', { by: text }),
  kind('session.thaw', { by: text }),
  kind('session.stalled', { reason: text }),
  kind('process.launch', {
    pid,
    ppid: pid,
    path: text,
    digest: digest.nullable(),
    argv,
    cwd: text,
    truncated: z.boolean(),
  }),
  kind('process.exit', {
    pid,
    code: z
      .number()
      .int()
      .min(-(2 ** 31))
      .max(2 ** 32)
      .nullable(),
  }),
  kind('process.denied', { pid, path: text, reason: text }),
  kind('file.open', {
    path: text,
    mode: z.enum(['read', 'write']),
    size: count,
    sha256: digest.nullable(),
    label,
  }),
  kind('file.write', { path: text, size: count, sha256: digest.nullable(), label }),
  kind('file.intent', { path: text, files: count, label }),
  kind('file.create', { path: text, type: fileType }),
  kind('file.delete', { path: text }),
  kind('file.rename', { path: text, to: text }),
  kind('file.attributes', { path: text }),
  kind('file.failed', { path: text, to: text.optional(), op: fileChange, reason: text }),
  kind('file.hash', { path: text, size: count, sha256: digest }),
  kind('file.denied', { path: text, op: word, reason: fileRefusal, rule: text, count: count.optional() }),
  kind('dns.query', { name: text, type: word, answer: text.nullable(), reason: text.nullable(), rule }),
  kind('net.open', { ...flow, ...peer, rule, tls: tls.nullable() }),
  kind('net.close', { ...flow, host: text, bytesOut: count, bytesIn: count, ms: count }),
  kind('net.denied', { ...flow, ...peer, reason: text, rule }),
  kind('http.request', {
    ...flow,
    request: count,
    ...http,
    rule: text,
    credential: text.nullable(),
    label,
    bytes: count,
  }),
  kind('http.response', {
    ...flow,
    request: count,
    status: count,
    bytesOut: count,
    bytesIn: count,
    ms: count,
    scrubbed: count,
  }),
  kind('http.denied', { ...flow, ...http, reason: text, rule, status: count }),
  kind('credential.injected', { name: text, host: text, request: count }),
  kind('credential.foreign', { host: text, header: text, fingerprint: text }),
  kind('decision', { action: word, effect, reason: text, rule, target: text }),
  kind('review.applied', { path: text, sha256: digest.nullable() }),
  kind('review.dropped', { path: text }),
  kind('gap', { journal: word, reason: text }),
])

// Both directions: the build fails when fact.ts and this table part ways.
type Parsed = z.infer<typeof FACT>
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false
const inStep: Same<Parsed, Fact> = true
void inStep

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Parses the payload of a record. Throws with the place and kind of the fault; never with the agent's text. */
export function parseFact(payload: Uint8Array): Fact {
  const json = parseJson(payload)
  if (isFrequent(json)) return json
  const result = FACT.safeParse(json)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  throw new Error(`not a fact: ${issue?.code ?? 'unknown'} at ${issue?.path.join('.').slice(0, 80) || 'top'}`)
}

const whole = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0
const short = (value: unknown): boolean => typeof value === 'string' && value.length <= 1 << 20
const labels: ReadonlySet<unknown> = new Set(LABELS)

/**
 * The two kinds that come by the thousand a second, checked by hand at a fraction of the schema's cost. Takes nothing
 * that the schema would refuse; what it does not take, the schema judges.
 */
function isFrequent(json: unknown): json is Fact {
  if (typeof json !== 'object' || json === null) return false
  const fact = json as Record<string, unknown>
  if (!whole(fact.t) || !whole(fact.m) || !whole(fact.flow) || !whole(fact.request)) return false
  const fields = Object.keys(fact).length
  if (fact.k === 'http.request')
    return (
      fields === 13 &&
      short(fact.method) &&
      short(fact.host) &&
      whole(fact.port) &&
      (fact.port as number) <= 65535 &&
      short(fact.path) &&
      short(fact.rule) &&
      (fact.credential === null || short(fact.credential)) &&
      labels.has(fact.label) &&
      whole(fact.bytes)
    )
  return (
    fact.k === 'http.response' &&
    fields === 10 &&
    whole(fact.status) &&
    whole(fact.bytesOut) &&
    whole(fact.bytesIn) &&
    whole(fact.ms) &&
    whole(fact.scrubbed)
  )
}

function parseJson(payload: Uint8Array): unknown {
  try {
    return JSON.parse(utf8.decode(payload))
  } catch (error) {
    throw new Error('not a fact: not JSON in UTF-8', { cause: error })
  }
}
