/** Starts `ambit-view` and speaks to it (docs/architecture.md, "View protocol"). */
import { type ChildProcess, spawn } from 'node:child_process'
import { writeFileSync, writeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import type { Duplex } from 'node:stream'
import { AmbitError } from '../lib/errors.ts'
import { nativeBinary } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import type { ViewSpec } from './view-spec.ts'

export interface ViewStats {
  readonly opens: number
  readonly reads: number
  readonly writes: number
  readonly denied: number
  /** Net growth; negative when the session freed more than it took. */
  readonly bytesAdded: number
  readonly inodesAdded: number
}

/** Patterns as in a profile, but none that re-admits. */
export interface Narrowing {
  readonly hide: readonly string[]
  readonly protect: readonly string[]
}

export interface ViewEnd {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** What the view said of it before it ended, printable; null when it said nothing. */
  readonly why: string | null
}

export interface View {
  stats(): Promise<ViewStats>
  /**
   * Hides and protects more in one root. Once it resolves, no name, open handle or mapping gives what is hidden now,
   * nor writes what is protected now. @throws AmbitError ERR_RUNTIME_FAILED; then nothing is known of what holds.
   */
  narrow(root: number, rules: Narrowing): Promise<void>
  /** Drains digests, makes the journal durable and ends the process. A code other than 0 means that it did not get there. */
  stop(): Promise<ViewEnd>
  /** Settles once, whatever ends the view. Never rejects. A view that ends before `stop` must end its session. */
  readonly exited: Promise<ViewEnd>
}

export interface ViewOptions {
  readonly spec: ViewSpec
  /** Where the spec is written for the child (mode 0600). */
  readonly specPath: string
  /** The mounted `/dev/fuse`; the caller closes its own copy as soon as `startView` has returned. */
  readonly fuse: number
}

interface Message {
  readonly ev: 'ready' | 'failed' | 'stats' | 'narrowed'
  readonly what?: string
  readonly why?: string
}

/** How long the view may take to come up, and to drain what it still has to hash. */
const START_MS = 15_000
const STOP_MS = 30_000
/** Whoever else holds the channel of a view that was killed keeps it open. */
const LAST_WORDS_MS = 1_000
/** Requests under way are answered before a grant shrinks. */
const NARROW_MS = 4_000

/** Resolves when the view serves; its process has its own copy of `fuse` at once. Throws AmbitError ERR_RUNTIME_FAILED or ERR_RUNTIME_MISSING. */
export async function startView({ spec, specPath, fuse }: ViewOptions): Promise<View> {
  writeFileSync(specPath, JSON.stringify(spec), { mode: 0o600 })
  const child = spawn(nativeBinary('ambit-view'), ['serve', specPath], {
    stdio: ['ignore', 'ignore', 'inherit', fuse, 'pipe'],
    env: {},
    cwd: '/',
  })
  const control = child.stdio[4] as Duplex
  const waiting: ((message: Message | null) => void)[] = []
  const next = () => new Promise<Message | null>((resolve) => waiting.push(resolve))
  const settle = (message: Message | null) => waiting.shift()?.(message)
  control.on('error', () => {})
  const lines = createInterface({ input: control })
  lines.on('error', () => {})
  let why: string | null = null
  lines.on('line', (line) => {
    const message = JSON.parse(line) as Message
    if (message.ev === 'failed') why = printable(message.why ?? 'it did not say why')
    settle(message)
  })
  const heard = new Promise<true>((resolve) => lines.once('close', () => resolve(true)))
  const exited = whenExited(child).then(async (end) => {
    // Its last words may still lie in the channel.
    if (end.code !== 0) await within(heard, LAST_WORDS_MS)
    return { ...end, why }
  })
  let ended = false
  void exited.then(() => {
    ended = true
    while (waiting.length > 0) settle(null)
  })

  const first = await within(next(), START_MS)
  if (first?.ev !== 'ready') {
    child.kill('SIGKILL')
    const reason = why ?? 'it ended before it was ready'
    throw new AmbitError('ERR_RUNTIME_FAILED', 'cannot start the file view', reason, 'try: ambit doctor')
  }
  return {
    exited,
    async stats() {
      if (ended) throw gone()
      control.write('{"op":"stats"}\n')
      const answer = await next()
      if (answer?.ev !== 'stats') throw gone()
      return answer as unknown as ViewStats
    },
    async narrow(root, { hide, protect }) {
      if (ended) throw gone()
      control.write(`${JSON.stringify({ op: 'narrow', root, hide, protect })}\n`)
      const answer = await within(next(), NARROW_MS)
      if (answer?.ev === 'narrowed') return
      const reason = answer?.why ? printable(answer.why) : 'it did not answer in time'
      throw new AmbitError('ERR_RUNTIME_FAILED', 'cannot shrink the grant', reason)
    },
    async stop() {
      if (!ended) tellToStop(control)
      if ((await within(exited, STOP_MS)) === null) child.kill('SIGKILL')
      return await exited
    },
  }
}

/** Past the stream: a write of its own to a view that has just ended would destroy it, and with it the last words. */
function tellToStop(control: Duplex): void {
  const { _handle: handle } = control as unknown as { _handle: { fd: number } | null }
  try {
    if (handle && handle.fd >= 0) writeSync(handle.fd, '{"op":"stop"}\n')
  } catch {
    // It has ended.
  }
}

const gone = () => new AmbitError('ERR_RUNTIME_FAILED', 'cannot ask the file view', 'it has ended')

/** How often a view is looked at whose end the kernel does not tell. */
const LOOK_MS = 1_000

/**
 * A killed view may not end: a thread of it that waits in the kernel for a lock keeps the process, and so the mount,
 * until the connection is aborted (native/launch/src/fuse.rs). Its first thread is dead by then, and that can be seen.
 */
function whenExited(child: ChildProcess): Promise<Omit<ViewEnd, 'why'>> {
  return new Promise((resolve) => {
    let dead = 0
    const seen = (stat: string): void => {
      // Twice: a process that just ended is seen like this, too.
      if (isDead(stat) && ++dead === 2) end(null, 'SIGKILL')
    }
    const look = setInterval(() => {
      readFile(`/proc/${child.pid}/stat`, 'latin1').then(seen, () => undefined)
    }, LOOK_MS)
    const end = (code: number | null, signal: NodeJS.Signals | null): void => {
      clearInterval(look)
      resolve({ code, signal })
    }
    child.once('error', () => end(127, null))
    child.once('exit', end)
  })
}

/** `/proc/PID/stat`: the state stands behind the name, which is in parentheses. */
const isDead = (stat: string): boolean => /^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2))

/** Null when `promise` takes longer than `ms`. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
