import type { Socket } from 'node:net'
import { type Quoted, quotedSchema } from './attestation/document.ts'
import type { Control } from '../audit/fact.ts'

/** What `ambit-launch` reports; docs/architecture.md, "Launch protocol". */
export type LaunchEvent =
  | { readonly ev: 'world' }
  | { readonly ev: 'ready'; readonly controls: readonly Control[] }
  | { readonly ev: 'running'; readonly pid: number }
  | { readonly ev: 'exit'; readonly code: number }
  | { readonly ev: 'exit'; readonly signal: number }
  | { readonly ev: 'timeout' }
  | { readonly ev: 'over-limit'; readonly limit: string }
  | ({ readonly ev: 'quote' } & Quoted)
  | { readonly ev: 'no-quote'; readonly nonce: string; readonly why: string }
  | { readonly ev: 'failed'; readonly what: string; readonly why: string; readonly remedy: string | null }

export type LaunchOrder =
  | { readonly op: 'build' | 'exec' | 'freeze' | 'thaw' | 'kill' }
  | { readonly op: 'signal'; readonly signal: number }
  | { readonly op: 'quote'; readonly nonce: string; readonly by: string }

type EventOf<K extends LaunchEvent['ev']> = Extract<LaunchEvent, { ev: K }>

/** Longest line. `ready` with all controls is some 4 KiB. */
const MAX_LINE = 64 << 10

/**
 * JSON lines from and to the launcher. The launcher is ours, but it runs beside the agent: a line that is too long or
 * that is no event ends the session.
 */
export class LaunchChannel {
  readonly #socket: Socket
  readonly #note: (event: LaunchEvent) => void
  readonly #seen: LaunchEvent[] = []
  readonly #waiting = new Set<() => void>()
  #buffer = ''
  #closed: string | null = null

  /** `note` hears every event once, in order. */
  constructor(socket: Socket, note: (event: LaunchEvent) => void) {
    this.#socket = socket
    this.#note = note
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => this.#read(chunk))
    // Orders to a launcher that is gone fail here; its end is what `World.exited` tells.
    socket.on('error', (error) => this.#fail(error.message))
  }

  send(order: LaunchOrder): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(order)}\n`)
  }

  /** The first event `ev`, past or future. Rejects when the launcher fails or ends first, or after `ms`. */
  expect<K extends LaunchEvent['ev']>(ev: K, ms: number): Promise<EventOf<K>> {
    return this.first((event): event is EventOf<K> => event.ev === ev, ms)
  }

  /** The same for the first that is `wanted`. */
  first<E extends LaunchEvent>(wanted: (event: LaunchEvent) => event is E, ms: number): Promise<E> {
    const { promise, resolve, reject } = Promise.withResolvers<E>()
    const timer = setTimeout(() => reject(new Error(`no answer within ${ms / 1000} s`)), ms)
    const look = (): void => {
      const event = this.#seen.find(wanted)
      const end = this.#seen.find((event) => event.ev === 'failed' || event.ev === 'exit')
      if (event) resolve(event)
      else if (end) reject(new Error(end.ev === 'failed' ? `${end.what}: ${end.why}` : 'the command ended'))
      else if (this.#closed !== null) reject(new Error(this.#closed))
    }
    this.#waiting.add(look)
    look()
    return promise.finally(() => {
      clearTimeout(timer)
      this.#waiting.delete(look)
    })
  }

  /** The launcher ended. What it wrote before is still read; then `done` is called. */
  close(why: string, done: () => void = () => {}): void {
    const finish = (): void => {
      this.#fail(why)
      done()
    }
    if (this.#socket.readableEnded || this.#socket.destroyed) finish()
    else this.#socket.once('close', finish)
  }

  #read(chunk: string): void {
    this.#buffer += chunk
    const lines = this.#buffer.split('\n')
    this.#buffer = lines.pop() ?? ''
    for (const line of lines) {
      const event = line.length <= MAX_LINE ? parseEvent(line) : null
      if (!event) return this.#misbehaved()
      this.#seen.push(event)
      this.#note(event)
      this.#wake()
    }
    if (this.#buffer.length > MAX_LINE) this.#misbehaved()
  }

  #misbehaved(): void {
    const event = {
      ev: 'failed',
      what: 'ambit-launch',
      why: 'it sent what is no event',
      remedy: null,
    } as const
    this.#seen.push(event)
    this.#note(event)
    this.#fail(event.why)
    // End of file kills the cell.
    this.#socket.destroy()
  }

  #fail(why: string): void {
    this.#closed ??= why
    this.#wake()
  }

  #wake(): void {
    for (const look of this.#waiting) look()
  }
}

/** One line as an event, or null. */
export function parseEvent(line: string): LaunchEvent | null {
  const value = parseObject(line)
  if (!value) return null
  const { ev } = value
  if (ev === 'world' || ev === 'timeout') return { ev }
  if (ev === 'running') return isInteger(value.pid) ? { ev, pid: value.pid } : null
  if (ev === 'over-limit') return isText(value.limit) ? { ev, limit: value.limit } : null
  if (ev === 'ready') return parseReady(value.controls)
  if (ev === 'failed') return parseFailed(value)
  if (ev === 'quote') return parseQuote(value)
  if (ev === 'no-quote')
    return isText(value.nonce) && isText(value.why) ? { ev, nonce: value.nonce, why: value.why } : null
  if (ev !== 'exit') return null
  if (isInteger(value.code)) return { ev, code: value.code }
  return isInteger(value.signal) ? { ev, signal: value.signal } : null
}

function parseObject(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line)
    return value !== null && typeof value === 'object' ? (value as Record<string, unknown>) : null
  } catch {
    return null // the caller ends the session
  }
}

function parseReady(controls: unknown): LaunchEvent | null {
  return Array.isArray(controls) && controls.length <= 64 && controls.every(isControl)
    ? { ev: 'ready', controls }
    : null
}

function parseFailed(value: Record<string, unknown>): LaunchEvent | null {
  const { what, why, remedy = null } = value
  return isText(what) && isText(why) && (remedy === null || isText(remedy))
    ? { ev: 'failed', what, why, remedy }
    : null
}

/** The quote's fact beside that of the start: what the log has. */
function parseQuote({ nonce, fact, measured }: Record<string, unknown>): LaunchEvent | null {
  const { quote, signature } = (fact ?? {}) as Record<string, unknown>
  const { ak, eventLog } = (measured ?? {}) as Record<string, unknown>
  const parsed = quotedSchema.safeParse({ nonce, ak, eventLog, quote, signature })
  return parsed.success ? { ev: 'quote', ...parsed.data } : null
}

const isText = (value: unknown): value is string => typeof value === 'string'
const isInteger = (value: unknown): value is number => Number.isSafeInteger(value)

function isControl(value: unknown): value is Control {
  const { control, state, detail } = (value ?? {}) as Record<string, unknown>
  return isText(control) && (state === 'fully' || state === 'partly' || state === 'not') && isText(detail)
}
