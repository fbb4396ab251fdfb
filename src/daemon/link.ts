/**
 * Calls and answers over one socket, the same in both directions: `ambit` asks the daemon, and the daemon hands
 * orders (kill, freeze, thaw) to the `ambit run` that opened the session.
 */
import type { Socket } from 'node:net'
import * as z from 'zod'
import { AmbitError, type ErrorCode, messageOf } from '../lib/errors.ts'
import { printable } from '../lib/printable.ts'
import { FrameReader, encodeFrame, malformed } from './frames.ts'

const id = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER)
const failure = z.strictObject({
  code: z.string().regex(/^ERR_[A-Z_]{1,60}$/),
  what: z.string().max(4096),
  why: z.string().max(4096),
  remedy: z.string().max(4096).nullable(),
})
const MESSAGE = z.union([
  z.strictObject({ id, op: z.string().max(64), args: z.record(z.string().max(64), z.unknown()) }),
  z.strictObject({ re: id, value: z.unknown() }),
  z.strictObject({ re: id, error: failure }),
])
type Message = z.infer<typeof MESSAGE>
type Failure = z.infer<typeof failure>

/** Calls that a peer may have open at once. */
const MAX_OPEN = 64

/** Answers a call; a thrown ERR_DAEMON_PROTOCOL closes the link, any other AmbitError travels to the caller. */
export type Answerer = (op: string, args: Record<string, unknown>) => Promise<unknown>

interface Pending {
  resolve(value: unknown): void
  reject(error: AmbitError): void
}

/** One link. Both ends may call; answers may come in any order. */
export class Link {
  readonly #socket: Socket
  readonly #answer: Answerer
  readonly #frames = new FrameReader()
  readonly #pending = new Map<number, Pending>()
  readonly #expired = new Set<number>()
  readonly #lost: ((error: AmbitError) => void)[] = []
  #last = 0
  #open = 0
  #end: AmbitError | undefined

  constructor(socket: Socket, answer: Answerer) {
    this.#socket = socket
    this.#answer = answer
    socket.on('data', (chunk) => this.#receive(chunk))
    socket.on('error', (error) => this.close(unreachable(messageOf(error))))
    socket.on('close', () => this.close(unreachable('the link was closed')))
  }

  /** Asks the peer. Rejects with the peer's error, or ERR_DAEMON_UNREACHABLE when the link ends or time is up. */
  call(op: string, args: object, timeoutMs = 60_000): Promise<unknown> {
    if (this.#end) return Promise.reject(this.#end)
    const id = ++this.#last
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        if (this.#pending.delete(id)) this.#expired.add(id)
        reject(unreachable(`no answer to ${op} within ${timeoutMs} ms`))
      }, timeoutMs)
      const settle = () => clearTimeout(timer)
      this.#pending.set(id, {
        resolve: (value) => (settle(), resolve(value)),
        reject: (error) => (settle(), reject(error)),
      })
      this.#send({ id, op, args: args as Record<string, unknown> })
    })
  }

  /** Calls back once when the link ends, at once if it has. */
  onLost(callback: (error: AmbitError) => void): void {
    if (this.#end) callback(this.#end)
    else this.#lost.push(callback)
  }

  /** Ends the link; everything pending fails with `error`. */
  close(error = unreachable('closed by this side')): void {
    if (this.#end) return
    this.#end = error
    this.#socket.destroy()
    for (const pending of this.#pending.values()) pending.reject(error)
    this.#pending.clear()
    for (const callback of this.#lost) callback(error)
  }

  /** Ends the link after what was sent has gone out. */
  finish(): void {
    this.#socket.end(() => this.close())
  }

  /** Lets the process end although the link stands. */
  unref(): void {
    this.#socket.unref()
  }

  #receive(chunk: Buffer): void {
    if (this.#end) return
    try {
      for (const message of this.#frames.push(chunk)) this.#take(parseMessage(message))
    } catch (error) {
      this.close(error instanceof AmbitError ? error : malformed(messageOf(error)))
    }
  }

  #take(message: Message): void {
    if (this.#end) return
    if ('op' in message) return void this.#serve(message)
    const pending = this.#pending.get(message.re)
    this.#pending.delete(message.re)
    if (!pending && !this.#expired.delete(message.re)) throw malformed('an answer to nothing that was asked')
    if ('error' in message) pending?.reject(asError(message.error))
    else pending?.resolve(message.value)
  }

  async #serve(call: { id: number; op: string; args: Record<string, unknown> }): Promise<void> {
    if (++this.#open > MAX_OPEN) return this.close(malformed('too many calls at once'))
    try {
      const value = await this.#answer(call.op, call.args)
      this.#send({ re: call.id, value: value ?? null })
    } catch (error) {
      if (error instanceof AmbitError && error.code === 'ERR_DAEMON_PROTOCOL') this.close(error)
      else this.#send({ re: call.id, error: asFailure(error) })
    } finally {
      this.#open--
    }
  }

  #send(message: Message): void {
    if (!this.#end) this.#socket.write(encodeFrame(message))
  }
}

function parseMessage(value: unknown): Message {
  const result = MESSAGE.safeParse(value)
  if (!result.success) throw malformed('not a call and not an answer')
  return result.data
}

function asFailure(error: unknown): Failure {
  const cut = (text: string) => text.slice(0, 4000)
  if (!(error instanceof AmbitError))
    return {
      code: 'ERR_INTERNAL',
      what: 'the daemon failed',
      why: cut(printable(messageOf(error))),
      remedy: null,
    }
  const remedy = error.remedy === undefined ? null : cut(error.remedy)
  return { code: error.code, what: cut(error.what), why: cut(error.why), remedy }
}

/** The peer passed our uid and namespace checks, so its code is taken as it is; its text is made printable. */
function asError(error: Failure): AmbitError {
  const { code, what, why, remedy } = error
  return new AmbitError(
    code as ErrorCode,
    printable(what),
    printable(why),
    remedy === null ? undefined : printable(remedy),
  )
}

/** The error of a link that ended or never began. */
export function unreachable(why: string): AmbitError {
  const remedy =
    'try again; ambit doctor --repair clears what a crash left, and ambitd.log beside its socket says more'
  return new AmbitError('ERR_DAEMON_UNREACHABLE', 'ambitd does not answer', why, remedy)
}
