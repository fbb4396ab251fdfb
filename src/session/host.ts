/**
 * A session host: everything of a session but the terminal, loaded before it is needed. It serves one `ambit run` of
 * its own user, becomes as that one is, and ends with it (docs/decisions/0005-a-warm-start.md).
 */
import { closeSync, fstatSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { type Server, Socket, createServer } from 'node:net'
import { basename, dirname, join } from 'node:path'
import * as z from 'zod'
import { checkPeer, checkPeerLives, descriptorOf } from '../lib/peer.ts'
import { withAddress } from '../lib/socket-dir.ts'
import { native } from '../lib/native.ts'
import { type Paths, hostSocket, installRoot, resolvePaths } from '../lib/paths.ts'
import type { Plan } from '../profile/plan.ts'
import type { Launcher, LauncherEnd } from '../runtime/launcher.ts'
import { releaseHomes } from '../runtime/home.ts'
import { Declined, type Front } from './front.ts'
import { differencesFrom } from './likeness.ts'
import type { SessionRequest } from './request.ts'

/** The one message with descriptors comes right behind the connection. */
const REQUEST_MS = 2000
const MAX_REQUEST = 8 << 20

const REQUEST = z.strictObject({
  v: z.literal(1),
  root: z.string(),
  argv: z.array(z.string()),
  env: z.record(z.string(), z.string()),
  cwd: z.string(),
  umask: z.number().int().min(0).max(0o777),
  tty: z.tuple([z.boolean(), z.boolean(), z.boolean()]),
})
type Request = z.infer<typeof REQUEST>

const EVENT = z.union([
  z.strictObject({ ev: z.literal('go') }),
  z.strictObject({ ev: z.literal('signal'), signal: z.number().int() }),
  z.strictObject({ ev: z.literal('launcher'), code: z.number().int() }),
  z.strictObject({ ev: z.literal('launcher'), signal: z.number().int() }),
  z.strictObject({ ev: z.literal('launcher'), error: z.string() }),
])

const SIGNALS: Readonly<Record<number, NodeJS.Signals>> = { 1: 'SIGHUP', 2: 'SIGINT', 15: 'SIGTERM' }

/** One `ambit run` that this process serves. */
export interface Guest {
  readonly argv: readonly string[]
  readonly front: Front
  /** The session is over and nothing of it is left here. */
  exit(code: number): void
  decline(): void
}

/**
 * Waits for one caller. Resolves when this process has become as the caller is: directory, environment, umask. Whoever
 * may not be served is sent away and starts by itself; then this waits on.
 */
export async function awaitGuest(paths: Paths, taken: () => void): Promise<Guest> {
  const loaded = installation()
  const server = createServer({ pauseOnConnect: true })
  const waiting = new Promise<Guest>((resolve, reject) => {
    server.on('connection', (socket) => void admit(socket).then((guest) => guest && resolve(guest), reject))
  })
  await listen(server, hostSocket(paths))

  async function admit(socket: Socket): Promise<Guest | null> {
    socket.on('error', () => socket.destroy())
    // Rebuilt or updated meanwhile: this code and what it would start are not of one piece any more.
    if (installation() !== loaded) process.exit(1)
    const caller = await receive(socket, paths).catch(() => null)
    if (!caller || !server.listening || !enter(caller.request.cwd)) {
      for (const fd of caller?.fds ?? []) closeSync(fd)
      socket.destroy()
      return null
    }
    // One session each: from here on nobody else gets in.
    rmSync(hostSocket(paths), { force: true })
    server.close()
    become(caller.request)
    taken()
    return await guestOf(socket, caller)
  }

  return waiting
}

/** Runs once what looks at a caller, on this process itself. Nothing of it is kept. */
export function rehearseCaller(): void {
  installation()
  differencesFrom(process.pid)
  const request: Request = {
    v: 1, root: '', argv: ['run', '--', 'true'], env: { PATH: '/bin' }, cwd: '/', umask: 0, tty: [false, false, false],
  } // biome-ignore format: a list
  REQUEST.parse(request)
  for (const event of [{ ev: 'go' }, { ev: 'signal', signal: 2 }, { ev: 'launcher', code: 0 }])
    EVENT.parse(event)
}

/** What the installation consists of, by size and time. */
function installation(): string {
  const build = join(installRoot(), '.build')
  const parts = ['ambit-main.cjs', 'native.node', 'bin/ambit-launch', 'bin/ambit-view', 'bin/ambit-start']
  return parts
    .map((part) => statSync(join(build, part)))
    .map(({ size, mtimeMs }) => `${size} ${mtimeMs}`)
    .join()
}

/** The name appears only when the socket listens, and replaces one that a dead host left. */
async function listen(server: Server, path: string): Promise<void> {
  const own = `${path}.${process.pid}`
  rmSync(own, { force: true })
  await withAddress(dirname(own), basename(own), (address) => {
    const mask = process.umask(0o177)
    return new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ path: address, backlog: 1 }, resolve)
      process.umask(mask)
    })
  })
  renameSync(own, path)
}

interface Caller {
  readonly request: Request
  /** Our ends of the launcher's fds 3 and 4. */
  readonly fds: readonly [number, number]
}

async function receive(socket: Socket, paths: Paths): Promise<Caller> {
  const { pid } = checkPeer(socket)
  const { fds } = await native().receiveFds(descriptorOf(socket), REQUEST_MS)
  const [text, control, sockets, ...more] = fds
  try {
    if (text === undefined || control === undefined || sockets === undefined || more.length > 0)
      throw new Error('other descriptors than agreed')
    const request = parseRequest(text)
    const differences = differencesFrom(pid)
    checkPeerLives(socket)
    if (differences.length > 0) throw new Error(`the caller differs in ${differences.join(', ')}`)
    if (request.root !== installRoot()) throw new Error('it is of another installation')
    const theirs = resolvePaths(request.env, request.cwd)
    if (JSON.stringify(theirs) !== JSON.stringify(paths)) throw new Error('it keeps its state elsewhere')
    return { request, fds: [control, sockets] }
  } catch (error) {
    for (const fd of fds.slice(1)) closeSync(fd)
    throw error
  } finally {
    if (text !== undefined) closeSync(text)
  }
}

function parseRequest(fd: number): Request {
  if (!fstatSync(fd).isFile() || fstatSync(fd).size > MAX_REQUEST) throw new Error('no request')
  return REQUEST.parse(JSON.parse(readFileSync(fd, 'utf8')))
}

/** The caller may stand where its path does not lead any more. */
function enter(cwd: string): boolean {
  try {
    process.chdir(cwd)
    return true
  } catch {
    return false
  }
}

/** What this process was before is nothing: ambitd gave it a bare environment. */
function become({ env, umask }: Request): void {
  process.umask(umask)
  for (const name of Object.keys(process.env)) if (!Object.hasOwn(env, name)) delete process.env[name]
  Object.assign(process.env, env)
}

/** Resolves once the caller still wants us: one that waited too long has started by itself, and its link is closed. */
async function guestOf(socket: Socket, { request, fds }: Caller): Promise<Guest> {
  const send = (order: object): void => void (socket.writable && socket.write(`${JSON.stringify(order)}\n`))
  const launcherEnd = Promise.withResolvers<LauncherEnd>()
  const go = Promise.withResolvers<void>()
  listenTo(socket, launcherEnd.resolve, go.resolve)
  send({ op: 'taken' })
  await go.promise
  const [control, descriptors] = fds
  const launcher: Launcher = {
    control: new Socket({ fd: control, readable: true, writable: true }),
    descriptors,
    ended: launcherEnd.promise,
    kill: () => send({ op: 'kill' }),
  }
  const [input, output, errors] = request.tty
  return {
    argv: request.argv,
    front: {
      color: errors && !request.env.NO_COLOR,
      err: (text) => send({ op: 'err', text: text.endsWith('\n') ? text : `${text}\n` }),
      terminal: input && output,
      // Only the process at the terminal can read from it and be stopped and continued with it.
      ask: input ? () => Promise.reject(new Declined()) : null,
      startLauncher: (_program, spec) => {
        send({ op: 'launch', spec })
        return launcher
      },
      accept: declineOwnDescriptors,
    },
    exit: (code) => {
      releaseHomes()
      send({ op: 'exit', code })
    },
    decline: () => send({ op: 'decline' }),
  }
}

/** Who started the session went away: as when `ambit run` itself is killed, ambitd records the end. */
function listenTo(socket: Socket, ended: (end: LauncherEnd) => void, go: () => void): void {
  let unread = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk: string) => {
    const lines = (unread + chunk).split('\n')
    unread = lines.pop() ?? ''
    for (const line of lines) {
      const event = EVENT.parse(JSON.parse(line))
      if (event.ev === 'go') go()
      else if (event.ev === 'signal') obey(SIGNALS[event.signal])
      else if ('error' in event) ended({ error: event.error })
      else if ('code' in event) ended({ code: event.code, signal: null })
      else ended({ code: null, signal: String(event.signal) })
    }
  })
  socket.on('close', () => process.exit())
  socket.resume()
}

/** As the signal would end this process where nobody waits for it. */
function obey(signal: NodeJS.Signals | undefined): void {
  if (signal && !process.emit(signal, signal)) process.exit(1)
}

/** A name of a descriptor means another one here. */
function declineOwnDescriptors(request: SessionRequest, plan: Plan): void {
  const named = [request.summaryFile, request.profile, ...plan.credentials.map(({ source }) => source)]
  if (named.some((name) => name !== null && /(^|:)\/(dev|proc)\//.test(name))) throw new Declined()
}
