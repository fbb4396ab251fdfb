/** Step 5: waits for the end, whatever it is, and keeps the session closed while a part it depends on is gone. */
import { connectDaemon, type DaemonClient, type Order } from '../daemon/client.ts'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { oomKills } from '../lib/oom.ts'
import { type Plan, RUNTIMES } from '../profile/plan.ts'
import type { Quoted } from '../runtime/attestation/document.ts'
import type { Exit } from '../runtime/runtime.ts'
import { runtimes } from '../runtime/runtimes.ts'
import type { Narrowing, ViewEnd } from '../view/view.ts'
import { openArguments, type Registered } from './register.ts'
import type { Wired } from './wire.ts'

/** How long a session waits, frozen, for its daemon to come back. */
const DAEMON_GRACE_MS = 15_000
/** Between a polite signal and the kill. */
const SIGNAL_GRACE_MS = 5_000
/** By how much the view's end may overtake the news of the cell's end. */
const WORLD_GRACE_MS = 5_000

export interface Ending {
  readonly exit: Exit
  /** Why Ambit ended it; null when the command ended by itself. */
  readonly stopped: string | null
  /** Meanwhile the kernel ended a process for want of memory. */
  readonly memoryRanOut: boolean
  /** The daemon of the end: another one when it was restarted. */
  readonly daemon: DaemonClient
}

/** Starts the command and watches every part until it ends, or until one of them fails and ends it. */
export async function superviseSession(session: Registered, wired: Wired): Promise<Ending> {
  const watch = new Watch(session, wired)
  const killsBefore = oomKills()
  try {
    await wired.world.exec()
    const exit = await wired.world.exited
    return { exit, stopped: watch.stopped, memoryRanOut: oomKills() > killsBefore, daemon: watch.daemon }
  } finally {
    watch.close()
  }
}

/** For a person: what took the view from a session. */
export const howViewEnded = ({ code, signal, why }: ViewEnd): string =>
  why
    ? `the file view ended: ${why}`
    : `the view died (${signal ?? `exit ${code}`}); without it there are no files`

class Watch {
  daemon: DaemonClient
  stopped: string | null = null
  readonly #session: Registered
  readonly #wired: Wired
  readonly #signals: [NodeJS.Signals, () => void][] = []
  #closed = false

  constructor(session: Registered, wired: Wired) {
    this.#session = session
    this.#wired = wired
    this.daemon = wired.daemon
    this.#follow(wired.daemon)
    void wired.view.exited.then((end) => this.#viewEnded(end))
    session.journal.onFailure((error) => this.#stop(`the journal failed: ${messageOf(error)}`))
    for (const [name, number] of [
      ['SIGTERM', 15],
      ['SIGINT', 2],
      ['SIGHUP', 1],
    ] as const) {
      const handler = (): void => this.#pass(number)
      process.on(name, handler)
      this.#signals.push([name, handler])
    }
  }

  close(): void {
    this.#closed = true
    for (const [name, handler] of this.#signals) process.off(name, handler)
  }

  #pass(signal: number): void {
    this.#wired.world.signal(signal)
    setTimeout(() => this.#wired.world.kill(), SIGNAL_GRACE_MS).unref()
  }

  #stop(reason: string): void {
    if (this.#closed || this.stopped !== null) return
    this.stopped = reason
    this.#wired.state.stop('ended', reason)
    this.#wired.gate.pause(reason)
    this.#wired.world.kill()
  }

  /**
   * The mount goes when the cell goes, so a view that ends by itself with the world is in order. One that ends before it
   * is not, nor one that was killed: the agent then saw its files vanish, and whatever it ended with is no result.
   */
  async #viewEnded(end: ViewEnd): Promise<void> {
    if (this.#closed) return
    this.#wired.gate.pause('the file view has ended')
    const reason = howViewEnded(end)
    if (end.code !== 0) return this.#stop(reason)
    const worldEnded = this.#wired.world.exited.then(() => true)
    const grace = new Promise<false>((resolve) => setTimeout(resolve, WORLD_GRACE_MS, false).unref())
    if (!(await Promise.race([worldEnded, grace]))) this.#stop(reason)
  }

  #follow(daemon: DaemonClient): void {
    daemon.onPush((order) => this.#obey(order))
    daemon.onLost(() => void this.#daemonLost())
  }

  async #obey(order: Order): Promise<unknown> {
    if (this.#closed) return undefined
    const { by } = order
    if (order.op === 'session.attest') return await this.#attest(order.nonce, by)
    if (order.op === 'session.narrow') await this.#narrow(order, by)
    else if (order.op === 'session.kill') this.#stop(`killed by ${by}`)
    else if (order.op === 'session.freeze') this.#freeze('freeze', `frozen by ${by}`, by)
    else this.#thaw('freeze', by)
    return undefined
  }

  async #attest(nonce: string, by: string): Promise<Quoted> {
    const { runtime, id } = this.#session
    if (runtimes[runtime].measured) return await this.#wired.world.quote(nonce, by)
    const measured = RUNTIMES.filter((name) => runtimes[name].measured)
    throw new AmbitError(
      'ERR_INPUT_INVALID',
      id,
      `it runs in ${runtime}: only a ${measured.join(' or a ')} has a TPM`,
      `start the session with --runtime ${measured.join('|')}`,
    )
  }

  /** The grant shrinks. On record before it happens; what cannot be enforced ends the session. */
  async #narrow(rules: Narrowing, by: string): Promise<void> {
    const { plan, journal } = this.#session
    refuseMounts(plan)
    for (const [verb, patterns] of [
      ['hide', rules.hide],
      ['protect', rules.protect],
    ] as const)
      for (const target of patterns)
        journal.append({
          k: 'decision',
          action: 'grant.narrow',
          effect: 'deny',
          reason: `${verb}: ${by}`,
          rule: null,
          target,
        })
    await journal.sync()
    try {
      for (const index of plan.roots.keys()) await this.#wired.view.narrow(index, rules)
    } catch (error) {
      this.#stop(`the grant could not shrink: ${messageOf(error)}`)
      throw error
    }
  }

  #freeze(key: string, reason: string, by: string): void {
    this.#wired.state.stop(key, reason)
    this.#wired.gate.pause(reason)
    this.#wired.world.freeze()
    this.#session.journal.append({ k: 'session.freeze', by })
  }

  #thaw(key: string, by: string): void {
    this.#wired.state.resume(key)
    if (this.#wired.state.stopped) return
    this.#session.journal.append({ k: 'session.thaw', by })
    this.#wired.world.thaw()
    this.#wired.gate.resume()
  }

  /** No daemon, no effects: everything stands still until it is back, or the session ends. */
  async #daemonLost(): Promise<void> {
    if (this.#closed) return
    this.#freeze('daemon', 'ambitd is gone; nothing goes out until it is back', 'ambitd-lost')
    const deadline = performance.now() + DAEMON_GRACE_MS
    while (!this.#closed && performance.now() < deadline) {
      try {
        const daemon = await connectDaemon(this.#session.request.paths)
        const { id, dir, startedAt } = this.#session
        await daemon.call('session.open', openArguments(this.#session, id, dir, startedAt))
        this.daemon = daemon
        this.#follow(daemon)
        this.#thaw('daemon', 'ambitd-back')
        return
      } catch {
        // Tried again until the deadline; then the session ends with the reason below.
        await new Promise((resolve) => setTimeout(resolve, 500))
      }
    }
    this.#stop('ambitd died and did not come back')
  }
}

/** A plain mount passes no view, so nothing can be taken from it while the session runs. */
function refuseMounts(plan: Plan): void {
  const mount = plan.roots.find((root) => root.via === 'mount')
  if (!mount) return
  throw new AmbitError(
    'ERR_INPUT_INVALID',
    mount.id,
    'a plain mount cannot shrink',
    'end the session: ambit kill ID',
  )
}
