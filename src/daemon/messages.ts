/** What may be asked of `ambitd`, and what it orders an `ambit run` to do. Both ends parse with these. */
import * as z from 'zod'
import { malformed } from './frames.ts'

/** Version of the protocol; peers of another one part at once. */
export const PROTOCOL = 1

/** What stands as the agent in the record of a review, which has an id and a place of its own and is no session. */
export const REVIEW = 'ambit review'

/** A session id is also a directory name. */
export const sessionId = z.string().regex(/^[a-z0-9][a-z0-9-]{2,63}$/)
const text = z.string().max(4096)
const nothing = z.strictObject({})
const one = z.strictObject({ id: sessionId })
const patterns = z.array(z.string().min(1).max(1024)).max(100)
/** As a TPM takes it, hex. */
const nonce = z
  .string()
  .max(128)
  .regex(/^([0-9a-f]{2})+$/)
const narrowing = { hide: patterns, protect: patterns }

export const ARGS = {
  hello: z.strictObject({ v: z.number().int(), version: text }),
  'session.open': z.strictObject({
    id: sessionId,
    dir: text,
    pid: z.number().int().min(1),
    profile: text,
    runtime: text,
    agent: text,
    project: text.nullable(),
    startedAt: z.number().int().min(0),
  }),
  'session.close': one,
  kill: one,
  freeze: one,
  thaw: one,
  narrow: z.strictObject({ id: sessionId, ...narrowing }),
  attest: z.strictObject({ id: sessionId, nonce }),
  sessions: z.strictObject({ all: z.boolean() }),
  'log.sync': nothing,
  status: nothing,
  shutdown: nothing,
} as const

export type Op = keyof typeof ARGS
export type Args<O extends Op> = z.infer<(typeof ARGS)[O]>

/** What the daemon orders the `ambit run` of a session to do. `by` names who asked. */
const simple = z.strictObject({
  op: z.enum(['session.kill', 'session.freeze', 'session.thaw']),
  id: sessionId,
  by: text,
})
const order = z.union([
  simple,
  z.strictObject({ ...simple.shape, op: z.literal('session.narrow'), ...narrowing }),
  z.strictObject({ ...simple.shape, op: z.literal('session.attest'), nonce }),
])
export type Order = z.infer<typeof order>

/** Parses an order; throws ERR_DAEMON_PROTOCOL, which closes the link. */
export function parseOrder(op: string, args: unknown): Order {
  const result = order.safeParse({ op, ...(args as object) })
  if (!result.success) throw malformed('not an order')
  return result.data
}

export interface Head {
  readonly size: number
  /** Base64 of the root hash. */
  readonly root: string
}

/**
 * `detached`: this daemon has not heard of it since it started. `refused`: it never started. `killed`: on an order, by
 * a limit, or it died without a word. `orphaned`: the machine went down under it.
 */
export const SESSION_STATES = [
  'running',
  'frozen',
  'detached',
  'ended',
  'failed',
  'killed',
  'refused',
  'timeout',
  'orphaned',
] as const
export type SessionState = (typeof SESSION_STATES)[number]

export interface SessionInfo {
  readonly id: string
  readonly state: SessionState
  readonly pid: number
  readonly profile: string
  readonly runtime: string
  readonly agent: string
  readonly project: string | null
  readonly startedAt: number
  readonly endedAt: number | null
  /** Facts sequenced so far, by kind. */
  readonly counters: Readonly<Record<string, number>>
}

export interface Status {
  readonly version: string
  readonly pid: number
  readonly sessions: number
  readonly log: Head | null
  /** Why sessions are refused, or null. */
  readonly broken: string | null
  /** Why sequencing waits (a full disk), or null. */
  readonly stalled: string | null
}

export interface Values {
  hello: { v: number; version: string; pid: number }
  'session.open': Record<string, never>
  'session.close': Head
  kill: Record<string, never>
  freeze: Record<string, never>
  thaw: Record<string, never>
  narrow: Record<string, never>
  /** A quote of the session's machine; src/runtime/attestation/document.ts checks its form. */
  attest: unknown
  sessions: { sessions: SessionInfo[] }
  'log.sync': Head
  status: Status
  shutdown: Record<string, never>
}

export const isOp = (op: string): op is Op => Object.hasOwn(ARGS, op)

/** Arguments of `op`; throws ERR_DAEMON_PROTOCOL, which closes the link. */
export function parseArgs<O extends Op>(op: O, args: unknown): Args<O> {
  const result = ARGS[op].safeParse(args)
  if (!result.success) throw malformed(`bad arguments of ${op}`)
  return result.data as Args<O>
}
