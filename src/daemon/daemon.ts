/** What `ambitd` does with what it is asked. Sockets are in serve.ts; nothing here knows how a call came in. */
import * as fs from 'node:fs'
import { join } from 'node:path'
import { PRODUCT } from '../audit/product.ts'
import { diskFiles } from '../audit/log-files.ts'
import type { Log } from '../audit/log.ts'
import { type Sequencer, isSealed } from '../audit/sequencer.ts'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { removeMemoryDir } from '../lib/memory-dir.ts'
import { OUT_OF_MEMORY, oomKills } from '../lib/oom.ts'
import { type Paths, journalDir, sessionDir, sessionsDir } from '../lib/paths.ts'
import type { Book } from './book.ts'
import { hasEnd, recordKill, recordLoss } from './loss.ts'
import type { Args, Head, Order, SessionInfo, Status, Values } from './messages.ts'
import { killOrphans } from './orphans.ts'
import type { Peer } from '../lib/peer.ts'
import {
  type SessionRecord,
  abandonedRecord,
  birthOf,
  infoOf,
  isLive,
  listSessions,
  loadRecord,
  saveRecord,
} from './records.ts'
import { removeRunDirs } from './run-dirs.ts'

/** The way back to whoever called: orders go to the `ambit run` that opened a session. */
export interface Caller {
  readonly peer: Peer
  order(order: Order): Promise<unknown>
}

interface LiveSession {
  record: SessionRecord
  caller: Caller | null
  /** When the link of `ambit run` was lost. */
  lostAt: number
  frozen: boolean
  /** `oomKills` when this daemon first heard of it; null where it was dead by then. */
  readonly oomKills: number | null
  /** Who had it killed against its will. */
  killedBy?: string
  /** Settles with the last write of its record: they go one after the other. */
  saved: Promise<unknown>
}

const NEW = { lostAt: 0, frozen: false, saved: Promise.resolve() } as const

/** Launch and view write their last records while they die after `ambit run`. */
const GRACE_MS = 500
/** Between two looks for sessions that died before they called. */
const RECOVER_MS = 3000

/** The state of `ambitd`: which sessions live, and the book they are written to. */
export class Daemon {
  readonly #paths: Paths
  readonly #book: Book
  readonly #live = new Map<string, LiveSession>()
  /** Sessions being ended: one end each. */
  readonly #ending = new Map<string, Promise<Head>>()
  /** Sessions known to be in the log whole. */
  readonly #sealed = new Set<string>()
  #recovered = 0
  #recovering: Promise<void> = Promise.resolve()
  #stalled: string | null = null

  constructor(paths: Paths, book: Book) {
    this.#paths = paths
    this.#book = book
  }

  /** True when no session may start because the log does not hold. */
  get broken(): boolean {
    return this.#book.broken !== null
  }

  /** Sessions whose process may live. */
  get liveSessions(): number {
    return this.#live.size
  }

  /** Why this daemon must end: its log saw a sync fail, and only a new one, which verifies, may go on (A-05). */
  get fatal(): AmbitError | null {
    return this.#book.log?.failure ?? null
  }

  /** Takes up sessions of an earlier daemon whose process lives: they wait for it to call again. Before anyone calls. */
  adopt(): void {
    for (const id of listSessions(this.#paths)) {
      const record = loadRecord(this.#paths, id)
      if (!record || !isLive(record.state) || birthOf(record.pid) !== record.born) continue
      this.#live.set(id, {
        record: { ...record, state: 'detached' },
        caller: null,
        lostAt: performance.now(),
        frozen: record.state === 'frozen',
        saved: Promise.resolve(),
        oomKills: oomKills(),
      })
      this.#book.sequencer?.follow(id)
    }
  }

  /**
   * Ends the sessions that died meanwhile, and sequences whatever journals hold beyond what the log has. Again and again:
   * a session may die before it has called, and a record may be written after its daemon was gone.
   */
  recover(): Promise<void> {
    this.#recovering = this.#recover()
    return this.#recovering
  }

  /** Resolves when what was found dead is ended and in the log: before that, no answer about sessions is the truth. */
  async settled(): Promise<void> {
    await this.#recovering.catch(() => undefined)
  }

  async #recover(): Promise<void> {
    if (!this.#book.sequencer) return
    this.#recovered = performance.now()
    for (const id of listSessions(this.#paths)) {
      if (this.#live.has(id) || this.#sealed.has(id)) continue
      const record = loadRecord(this.#paths, id) ?? abandonedRecord(this.#paths, id)
      // One that lives is taken up by adopt, or is just being opened.
      if (!record || birthOf(record.pid) === record.born) continue
      if (isLive(record.state) || !isSealed(sessionDir(this.#paths, id))) await this.#recoverDead(record)
      else this.#sealed.add(id)
    }
    removeRunDirs(this.#paths)
  }

  async openSession(args: Args<'session.open'>, caller: Caller): Promise<Values['session.open']> {
    const { sequencer } = this.#ready()
    const { id, dir, ...facts } = args
    if (args.pid !== caller.peer.pid) throw refusedOpen('the caller is not the process it names')
    if (dir !== sessionDir(this.#paths, id) || !isDirectory(dir))
      throw refusedOpen('its directory is not where sessions are')
    const known = this.#live.get(id)
    if (known) return this.#reattach(known, caller)
    await this.#requireLog()
    const old = loadRecord(this.#paths, id)
    if (old) throw refusedOpen('it has ended already')
    const born = birthOf(args.pid)
    if (born === null) throw refusedOpen('its process does not live')
    const record: SessionRecord = { v: 1, id, ...facts, state: 'running', born, endedAt: null, counters: {} }
    // Ours from here on: recovery, which may still run, must not take it for a dead one.
    const session: LiveSession = { record, caller, ...NEW, oomKills: oomKills() }
    this.#live.set(id, session)
    try {
      // The session made its own directory; its name must outlive a power cut as its journals do.
      await Promise.all([this.#save(session), diskFiles.syncDir(sessionsDir(this.#paths))])
    } catch (error) {
      this.#live.delete(id)
      throw error
    }
    sequencer.follow(id)
    return {}
  }

  /** Sequences the session to its end and signs; the caller's journals must be durable. */
  async closeSession(id: string, caller: Caller): Promise<Head> {
    const session = this.#live.get(id)
    if (session?.caller !== caller) throw notFound(id, 'this link did not open it')
    return await this.#end(id, 'ended')
  }

  /** The link of `caller` is gone. Its sessions go on for as long as their process does. */
  lost(caller: Caller): void {
    for (const session of this.#live.values()) {
      if (session.caller !== caller) continue
      session.caller = null
      session.lostAt = performance.now()
      session.record = { ...session.record, state: 'detached' }
    }
  }

  /** Hands an order to the session's `ambit run`. A kill does not depend on its answer. */
  async order(order: Order): Promise<Record<string, never>> {
    const { op, id } = order
    const session = this.#running(id)
    try {
      await callerOf(session, id).order(order)
    } catch (error) {
      if (op !== 'session.kill') throw error
      await this.#kill(session, order.by)
    }
    if (op === 'session.freeze' || op === 'session.thaw')
      await this.#setFrozen(session, op === 'session.freeze')
    return {}
  }

  /** Hands an order to the session's `ambit run`; gives its answer. */
  async ask(order: Order): Promise<unknown> {
    return await callerOf(this.#running(order.id), order.id).order(order)
  }

  #running(id: string): LiveSession {
    const session = this.#live.get(id)
    if (!session) throw notFound(id, 'it does not run')
    return session
  }

  sessions(all: boolean): SessionInfo[] {
    const live = [...this.#live.values()].map(({ record }) =>
      infoOf({ ...record, counters: { ...this.#book.sequencer?.counters(record.id) } }),
    )
    if (!all) return live
    const ended = listSessions(this.#paths).flatMap((id) => {
      const record = this.#live.has(id) ? null : loadRecord(this.#paths, id)
      return record ? [infoOf(record)] : []
    })
    return [...ended, ...live].sort((a, b) => a.startedAt - b.startedAt).slice(-1000)
  }

  async syncLog(): Promise<Head> {
    await this.settled()
    return await this.#sequence()
  }

  status(): Status {
    const { log, broken } = this.#book
    return {
      version: PRODUCT.version,
      pid: process.pid,
      sessions: this.#live.size,
      log: log ? headOf(log) : null,
      broken: broken?.message ?? null,
      stalled: this.#stalled,
    }
  }

  /** Each second while sessions live: sequences, signs, and ends sessions whose process is gone. */
  async tick(now = performance.now()): Promise<void> {
    for (const [id, session] of this.#live) {
      const { record, caller, lostAt } = session
      const dead = !caller && now - lostAt >= GRACE_MS && birthOf(record.pid) !== record.born
      if (dead) await this.#settle(() => this.#endLost(id, record, session))
    }
    if (this.#live.size > 0) await this.#settle(() => this.#sequence('gently'))
    if (now - this.#recovered >= RECOVER_MS) await this.#settle(() => this.recover())
  }

  /** Sequences and signs a last time. */
  async close(): Promise<void> {
    if (this.#book.log && !this.fatal) await this.#settle(() => this.#sequence())
    this.#book.log?.close()
  }

  async #recoverDead(record: SessionRecord): Promise<void> {
    const { id } = record
    this.#book.sequencer?.follow(id)
    this.#live.set(id, { record, caller: null, ...NEW, oomKills: null })
    if (!isLive(record.state)) await this.#settle(() => this.#end(id, record.state))
    else if (hasEnd(journalDir(this.#paths, id))) await this.#settle(() => this.#end(id, 'ended'))
    else await this.#settle(() => this.#endLost(id, record))
  }

  /**
   * Kills a run that does not obey: launcher and view end at the end of its pipes. Who asked is recorded first; a disk
   * that takes no record does not save the session.
   */
  async #kill(session: LiveSession, by: string): Promise<void> {
    session.killedBy = by
    await this.#settle(() => recordKill(this.#paths, session.record.id, by))
    if (birthOf(session.record.pid) === session.record.born) process.kill(session.record.pid, 'SIGKILL')
  }

  async #endLost(id: string, record: SessionRecord, seen?: LiveSession): Promise<void> {
    const ranOut = seen !== undefined && seen.oomKills !== null && oomKills() > seen.oomKills
    // They write to the journals that are about to be closed for good.
    killOrphans(this.#paths)
    removeMemoryDir(id)
    fs.rmSync(join(this.#paths.run, 'sessions', id), { recursive: true, force: true })
    if (!isDirectory(sessionDir(this.#paths, id))) return this.#forget(id)
    const said = hasEnd(journalDir(this.#paths, id))
    const sameBoot = birthOf(process.pid)?.split(':')[0] === record.born.split(':')[0]
    const died = seen?.killedBy
      ? `killed by ${seen.killedBy}, which ambit run did not obey`
      : `ambit run died without a word${ranOut ? `; the kernel was ending processes ${OUT_OF_MEMORY}` : ''}`
    const loss = sameBoot
      ? { reason: died, withMachine: false }
      : { reason: 'the machine went down', withMachine: true }
    await recordLoss(this.#paths, id, loss)
    await this.#end(id, said ? 'ended' : sameBoot ? 'killed' : 'orphaned')
  }

  /** A session whose directory somebody removed: what the log lacks is lost, and is said as gaps; nothing else is left. */
  async #forget(id: string): Promise<void> {
    await this.#book.sequencer?.abandon(id)
    this.#live.delete(id)
  }

  #end(id: string, state: SessionRecord['state']): Promise<Head> {
    const running = this.#ending.get(id)
    if (running) return running
    const end = this.#finish(id, state).finally(() => this.#ending.delete(id))
    this.#ending.set(id, end)
    return end
  }

  async #finish(id: string, state: SessionRecord['state']): Promise<Head> {
    const { log, sequencer } = this.#ready()
    const session = this.#live.get(id)
    // Both its record and its seal may be lost with the power: without them the next daemon finishes it again.
    await sequencer.finish(id, async ({ counters, outcome }) => {
      if (!session) return
      const said = state === 'ended' ? (outcome ?? state) : state
      const endedAt = session.record.endedAt ?? Date.now()
      await this.#save(session, { state: said, endedAt, counters })
    })
    this.#live.delete(id)
    return headOf(log)
  }

  async #setFrozen(session: LiveSession, frozen: boolean): Promise<void> {
    const { id } = session.record
    // Its end came first, and says what it is.
    if (this.#ending.has(id) || this.#live.get(id) !== session) return
    session.frozen = frozen
    await this.#save(session, { state: frozen ? 'frozen' : 'running' })
  }

  async #save(session: LiveSession, change: Partial<SessionRecord> = {}): Promise<void> {
    session.record = { ...session.record, ...change }
    const { record } = session
    const saved = session.saved.then(() => saveRecord(this.#paths, record))
    session.saved = saved.catch(() => undefined)
    await saved
  }

  #reattach(session: LiveSession, caller: Caller): Values['session.open'] {
    if (session.caller) throw refusedOpen('it is open already')
    if (session.record.pid !== caller.peer.pid || birthOf(caller.peer.pid) !== session.record.born) {
      throw refusedOpen('it belongs to another process')
    }
    session.caller = caller
    session.record = { ...session.record, state: session.frozen ? 'frozen' : 'running' }
    return {}
  }

  async #sequence(how?: 'gently'): Promise<Head> {
    const { log, sequencer } = this.#ready()
    await (how ? sequencer.sequenceGently() : sequencer.sequence())
    this.#stalled = null
    return headOf(log)
  }

  /** Work that is tried again at the next tick: a full disk loses nothing, the journals hold it. */
  async #settle(work: () => Promise<unknown>): Promise<void> {
    try {
      await work()
    } catch (error) {
      this.#stalled = messageOf(error)
    }
  }

  /** No session begins before a log that would not take its record: the journals alone are nobody's proof. */
  async #requireLog(): Promise<void> {
    this.#ready().log.requireWritable()
    if (this.#stalled !== null) await this.#sequence()
  }

  #ready(): { log: Log; sequencer: Sequencer } {
    if (this.#book.broken) throw this.#book.broken
    return this.#book
  }
}

const headOf = (log: Log): Head => ({
  size: log.size,
  root: Buffer.from(log.head.root).toString('base64'),
})

const isDirectory = (path: string): boolean =>
  fs.lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false

const refusedOpen = (why: string): AmbitError =>
  new AmbitError('ERR_DAEMON_PEER', 'the daemon refused the session', why)

const notFound = (id: string, why: string): AmbitError =>
  new AmbitError('ERR_SESSION_NOT_FOUND', `session ${id}`, why, 'ambit sessions lists those that run')

function callerOf({ caller }: LiveSession, id: string): Caller {
  if (caller) return caller
  throw notFound(id, 'its ambit run has lost the daemon; it stands still until it is back')
}
