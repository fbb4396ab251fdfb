/** The way to `ambitd`: connects, and starts it when nobody answers. */
import { spawn } from 'node:child_process'
import * as fs from 'node:fs'
import { type Socket, connect } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { type Paths, daemonSocket, installRoot } from '../lib/paths.ts'
import { PRODUCT } from '../audit/product.ts'
import { malformed } from './frames.ts'
import { Link, unreachable } from './link.ts'
import { type Op, type Order, PROTOCOL, type Values, parseOrder } from './messages.ts'
import { checkPeer } from '../lib/peer.ts'
import { checkDir, claimDir, withAddress } from '../lib/socket-dir.ts'

export type * from './messages.ts'
export { REVIEW } from './messages.ts'
export { ownBirth } from './records.ts'

export type { Order } from './messages.ts'
/** Executes an order of the daemon; what it gives or throws travels to the person who asked. */
export type OrderHandler = (order: Order) => unknown

export interface DaemonClient {
  /** Product version of the daemon, and its process. */
  readonly daemon: { readonly version: string; readonly pid: number }
  /** Arguments: `ARGS[op]` of messages.ts. Rejects with the daemon's AmbitError, or ERR_DAEMON_UNREACHABLE. */
  call<O extends Op>(op: O, args: Readonly<Record<string, unknown>>, timeoutMs?: number): Promise<Values[O]>
  /** Called once when the daemon is gone. A session must then let nothing more out. */
  onLost(callback: (error: AmbitError) => void): void
  /** Takes the daemon's orders for the session that this link opened. */
  onPush(handler: OrderHandler): void
  /** Lets the process end although the link stands. */
  unref(): void
  close(): void
}

export interface ConnectOptions {
  /** Start the daemon when none answers. */
  readonly start?: boolean
  readonly deadlineMs?: number
}

/** A daemon starts in a fifth of a second; on a machine that is very busy, in a hundred times that. One that ends at once is told at once. */
const PATIENCE_MS = 30_000

/**
 * Connects to the daemon of `paths`; starts it on demand. Throws ERR_DAEMON_UNREACHABLE, ERR_DAEMON_PEER (the socket
 * is not the daemon's own) or ERR_DAEMON_PROTOCOL (another version answers).
 */
export async function connectDaemon(paths: Paths, options: ConnectOptions = {}): Promise<DaemonClient> {
  const deadline = performance.now() + (options.deadlineMs ?? PATIENCE_MS)
  const first = await reach(paths)
  if (first) return first
  if (options.start === false) throw unreachable('it is not running')
  claimDir(paths.run)
  for (let child = startDaemon(paths); ; ) {
    await sleep(15)
    const client = await reach(paths)
    if (client) return client
    if (performance.now() > deadline) throw unreachable(`it did not start in time; see ${logFile(paths)}`)
    // Another starter's daemon may hold the lock and end just now (idle): ours went away at once, so start again.
    if (child.exitCode !== null) {
      if (child.exitCode !== 0) throw unreachable(`it ended with ${child.exitCode}: ${lastWords(paths)}`)
      await sleep(100)
      child = startDaemon(paths)
    }
  }
}

/** Links in a row that end before they begin: a daemon that dies does that once, one that refuses us always. */
const MAX_REFUSALS = 5

/** A greeted daemon, or undefined when none listens, or when the one that does is just dying. */
async function reach(paths: Paths): Promise<DaemonClient | undefined> {
  for (let refusals = 1; ; refusals++) {
    const socket = await dial(paths)
    if (!socket) return undefined
    try {
      return await greet(socket)
    } catch (error) {
      if (
        !(error instanceof AmbitError) ||
        error.code !== 'ERR_DAEMON_UNREACHABLE' ||
        refusals === MAX_REFUSALS
      )
        throw error
      await sleep(20)
    }
  }
}

/** A connected socket, or undefined when nobody listens. */
async function dial(paths: Paths): Promise<Socket | undefined> {
  if (!fs.existsSync(paths.run)) return undefined
  checkDir(paths.run)
  const socketPath = daemonSocket(paths)
  try {
    return await withAddress(dirname(socketPath), basename(socketPath), connectTo)
  } catch (error) {
    if (['ENOENT', 'ECONNREFUSED'].includes(errnoOf(error) ?? '')) return undefined
    throw unreachable(messageOf(error))
  }
}

function connectTo(address: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(address)
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
  })
}

async function greet(socket: Socket): Promise<DaemonClient> {
  checkPeer(socket)
  let orders: OrderHandler | undefined
  const link = new Link(socket, async (op, args) => {
    const order = parseOrder(op, args)
    if (!orders) throw malformed('an order to a link without a session')
    return await orders(order)
  })
  const hello = (await link.call(
    'hello',
    { v: PROTOCOL, version: PRODUCT.version },
    PATIENCE_MS,
  )) as Values['hello']
  return {
    daemon: { version: hello.version, pid: hello.pid },
    call: (op, args, timeoutMs) => link.call(op, args, timeoutMs) as Promise<Values[typeof op]>,
    onLost: (callback) => link.onLost(callback),
    onPush: (handler) => {
      orders = handler
    },
    unref: () => link.unref(),
    close: () => link.close(),
  }
}

const logFile = (paths: Paths): string => join(paths.run, 'ambitd.log')

/** Starts a daemon of our own version; two that start at once settle it by lock, the later one leaves with 0. */
function startDaemon(paths: Paths): ReturnType<typeof spawn> {
  const log = fs.openSync(
    logFile(paths),
    fs.constants.O_WRONLY | fs.constants.O_CREAT | fs.constants.O_APPEND | fs.constants.O_NOFOLLOW,
    0o600,
  )
  try {
    const [program, ...args] = daemonCommand()
    const places = ['--config', paths.config, '--state', paths.state, '--run', paths.run]
    const child = spawn(program, [...args, ...places], {
      cwd: '/',
      env: bareEnvironment(),
      stdio: ['ignore', 'ignore', log],
      detached: true,
    })
    child.on('error', () => undefined)
    child.unref()
    return child
  } finally {
    fs.closeSync(log)
  }
}

/** From the bundle: the shipped node and bundle. From source: this node and main.ts. Never from the environment. */
function daemonCommand(): [string, ...string[]] {
  const here = fileURLToPath(import.meta.url)
  // No debugger by signal: native/start/src/main.rs. Batches of events are young for a moment: room for them grows to
  // three times 16 MiB in the first busy minute and is never given back.
  const flags = ['--disable-sigusr1', '--max-semi-space-size=4']
  if (here.endsWith('.ts')) return [process.execPath, ...flags, join(dirname(here), 'main.ts')]
  const build = join(installRoot(), '.build')
  return [join(build, 'node'), ...flags, join(build, 'ambitd.cjs')]
}

/** Little: the daemon outlives this command, serves others, and must not run what NODE_OPTIONS says. */
export function bareEnvironment(): NodeJS.ProcessEnv {
  const keep = ['HOME', 'PATH', 'LANG', 'TZ']
  return Object.fromEntries(keep.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])))
}

function lastWords(paths: Paths): string {
  try {
    return fs.readFileSync(logFile(paths), 'utf8').trim().split('\n').at(-1) ?? ''
  } catch {
    return 'it said nothing'
  }
}
