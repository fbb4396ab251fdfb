import { closeSync } from 'node:fs'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { nativeBinary } from '../lib/paths.ts'
import { installHint } from './tools.ts'
import { LaunchChannel, type LaunchEvent, type LaunchOrder } from './launch-channel.ts'
import { type Launcher, type LauncherEnd, spawnLauncher } from './launcher.ts'
import type { Control } from '../audit/fact.ts'
import type { Quoted } from './attestation/document.ts'
import type { LaunchCell } from './launch-spec.ts'
import type { Exit, GateSockets, Ground, Runtime, World } from './runtime.ts'

/** Deadlines, milliseconds. A launcher that does not answer in time is killed: the session fails closed. */
const OPEN_MS = 15_000
/** A machine may take a minute to boot (native/launch/src/vm/running.rs), which ends itself before this. */
const BUILD_MS = 75_000
const EXEC_MS = 15_000
/** The guest may have its TPM at a long task. */
const QUOTE_MS = 20_000
/**
 * From the order to kill, or from the report of the command's end, to the launcher's own: it waits a second for what
 * does not die and two for its streams. Killed before, it could not break off a view's connection that processes hang in.
 */
const END_MS = 8_000

/** Names of the descriptors in the one message on fd 4. */
const DESCRIPTORS = ['tcp', 'dns', 'dns-tcp', 'proxy', 'fuse'] as const

/** bubblewrap in namespaces of `ambit-launch`. Linux only. */
export const osSandbox: Runtime = {
  words: "on this machine's own kernel, behind namespaces and a filter of what may be asked of it",
  required: ['landlock'],
  // Out of reach under a plain mount only from Landlock ABI 9. Below it this part is covered otherwise: the view hands
  // out no socket, /run and /tmp are empty, and a closure or root with a bound socket is not mounted.
  covered: ['unix-sockets'],
  needs: [],
  probe: async () => [],
  measured: false,
  patience: 180,
  find: () => onThisSystem({ kind: 'bubblewrap' }),
}

/** Where the agent has the host's own system and files, in mounts of the cell. */
export const onThisSystem = (cell: LaunchCell): Ground => ({
  cell,
  show: (found) => found,
  // The outer namespace calls the session's host uid 0; files of the caller appear as the agent's own.
  adapt: (spec) => ({ spec, shown: [], owner: { uid: 0, gid: 0 }, etc: 'mounted' }),
  open: (specPath, start) => openWorld(nativeBinary('ambit-launch'), specPath, start),
})

/** Starts `program`, which speaks the launch protocol, and takes its descriptors. */
export async function openWorld(program: string, specPath: string, start = spawnLauncher): Promise<World> {
  const launcher = start(program, specPath)
  const world = new OsWorld(launcher)
  try {
    await world.receiveDescriptors(launcher.descriptors)
    return world
  } catch (error) {
    world.kill()
    throw await world.failure('making the namespaces', error)
  } finally {
    closeSync(launcher.descriptors)
  }
}

type QuoteAnswer = Extract<LaunchEvent, { ev: 'quote' | 'no-quote' }>

class OsWorld implements World {
  sockets: GateSockets = { tcp: -1, dns: -1, dnsTcp: -1, proxy: -1 }
  fuse = -1
  readonly exited: Promise<Exit>
  readonly gone: Promise<unknown>
  readonly #told = Promise.withResolvers<Exit>()
  readonly #launcher: Launcher
  readonly #channel: LaunchChannel
  #ending: Exit | null = null
  #deadline: NodeJS.Timeout | null = null

  constructor(launcher: Launcher) {
    this.#launcher = launcher
    this.#channel = new LaunchChannel(launcher.control, (event) => this.#note(event))
    this.gone = launcher.ended.then((end) => this.#end(end)).then(this.#told.resolve)
    this.exited = this.#told.promise
  }

  #end(end: LauncherEnd): Promise<Exit> | Exit {
    if (this.#deadline) clearTimeout(this.#deadline)
    if ('error' in end) {
      this.#channel.close(end.error)
      return (this.#ending ??= failed('starting ambit-launch', end.error))
    }
    const why = end.signal ? `signal ${end.signal} ended it` : `it ended with status ${end.code}`
    return new Promise((resolve) => {
      this.#channel.close(why, () => resolve(this.#ending ?? failed('ambit-launch', `${why} without a word`)))
    })
  }

  /** The listening sockets and the FUSE connection, in one message beside the `world` event. */
  async receiveDescriptors(socket: number): Promise<void> {
    const [message] = await Promise.all([
      native().receiveFds(socket, OPEN_MS),
      this.#channel.expect('world', OPEN_MS),
    ])
    const names = (JSON.parse(message.data) as { fds?: unknown }).fds
    if (JSON.stringify(names) !== JSON.stringify(DESCRIPTORS) || message.fds.length !== DESCRIPTORS.length) {
      for (const fd of message.fds) closeSync(fd)
      throw new AmbitError(
        'ERR_RUNTIME_FAILED',
        'ambit-launch',
        'it sent other descriptors than agreed: it is not of this version',
        'run: ./dev build',
      )
    }
    const [tcp, dns, dnsTcp, proxy, fuse] = message.fds as [number, number, number, number, number]
    this.sockets = { tcp, dns, dnsTcp, proxy }
    this.fuse = fuse
  }

  async build(): Promise<readonly Control[]> {
    return (await this.#step('building the cell', { op: 'build' }, 'ready', BUILD_MS)).controls
  }

  async exec(): Promise<void> {
    await this.#step('starting the command', { op: 'exec' }, 'running', EXEC_MS)
  }

  freeze(): void {
    this.#channel.send({ op: 'freeze' })
  }

  thaw(): void {
    this.#channel.send({ op: 'thaw' })
  }

  signal(signal: number): void {
    this.#channel.send({ op: 'signal', signal })
  }

  async quote(nonce: string, by: string): Promise<Quoted> {
    this.#channel.send({ op: 'quote', nonce, by })
    const isAnswer = (event: LaunchEvent): event is QuoteAnswer =>
      (event.ev === 'quote' || event.ev === 'no-quote') && event.nonce === nonce
    const event = await this.#channel.first(isAnswer, QUOTE_MS).catch((error: unknown): QuoteAnswer => {
      return { ev: 'no-quote', nonce, why: messageOf(error) }
    })
    if (event.ev === 'no-quote')
      throw new AmbitError('ERR_RUNTIME_FAILED', 'no quote', event.why, 'ask again with another nonce')
    const { ev: _, ...quoted } = event
    return quoted
  }

  kill(): void {
    this.#channel.send({ op: 'kill' })
    this.#expectEnd()
  }

  /** The launcher's own account of a failure, when it gives one in time, else what was seen from here. */
  async failure(what: string, error: unknown): Promise<AmbitError> {
    const exit = await this.exited
    if (error instanceof AmbitError) return error
    const seen = exit.kind === 'failed' ? exit : failed(what, messageOf(error))
    const missing = /not (installed|found)|No such file/.test(seen.why) && /bwrap/.test(seen.what + seen.why)
    const remedy =
      seen.remedy ?? (missing ? installHint('bubblewrap') : 'ambit doctor says what this machine lacks')
    return new AmbitError(
      missing ? 'ERR_RUNTIME_MISSING' : 'ERR_RUNTIME_FAILED',
      seen.what,
      seen.why,
      remedy,
      { cause: error },
    )
  }

  async #step<K extends LaunchEvent['ev']>(what: string, order: LaunchOrder, answer: K, ms: number) {
    try {
      this.#channel.send(order)
      return await this.#channel.expect(answer, ms)
    } catch (error) {
      // A command that ended before its start was reported is an end, not a failure.
      if (answer === 'running' && this.#ending && this.#ending.kind !== 'failed')
        return { ev: 'running', pid: 0 } as Extract<LaunchEvent, { ev: K }>
      this.kill()
      throw await this.failure(what, error)
    }
  }

  #note(event: LaunchEvent): void {
    const ending = endingOf(event)
    if (!ending || this.#ending) return
    this.#ending = ending
    // By the time it tells how the command ended, nothing inside lives and nothing more is recorded there.
    if (ending.kind !== 'failed') this.#told.resolve(ending)
    this.#expectEnd()
  }

  /** The launcher dies with its namespaces; SIGKILL makes sure. The kernel then kills everything inside. */
  #expectEnd(): void {
    this.#deadline ??= setTimeout(() => this.#launcher.kill(), END_MS)
  }
}

function endingOf(event: LaunchEvent): Exit | null {
  switch (event.ev) {
    case 'exit':
      return 'code' in event ? { kind: 'code', code: event.code } : { kind: 'signal', signal: event.signal }
    case 'timeout':
      return { kind: 'timeout' }
    case 'over-limit':
      return { kind: 'over-limit', limit: event.limit }
    case 'failed':
      return { kind: 'failed', what: event.what, why: event.why, remedy: event.remedy }
    default:
      return null
  }
}

const failed = (what: string, why: string): Extract<Exit, { kind: 'failed' }> => ({
  kind: 'failed',
  what,
  why,
  remedy: null,
})
