/**
 * A microVM driven by hand: QEMU with the image's kernel, the three ports, and `ambit-view` at the end of one of them.
 * It speaks the guest protocol (docs/architecture.md, "Inside a microVM") and enforces nothing.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { imagesDir, nativeBinary, type Paths } from '../../src/lib/paths.ts'
import { buildImage } from '../../src/runtime/microvm-image/build.ts'
import type { LaunchMount } from '../../src/runtime/launch-spec.ts'
import { type Image, verifyImage } from '../../src/runtime/microvm-image/verify.ts'
import { withoutPrograms } from './programs.ts'

const root = join(import.meta.dirname, '../..')
const cache = join(root, '.build/test-cache')
/** An image takes half a minute, on a busy machine three. */
const LOCK_MS = 600_000
/** What is done with an image has no part in it. */
const AFTERWARDS = /\/(digests|snapshot|verify|warm)\.ts$/

/** Why no machine can be booted here, or false. */
export const cannotBoot: string | false =
  process.arch === 'x64'
    ? (withoutPrograms('qemu-system-x86_64', 'mkfs.erofs', 'veritysetup', 'lz4', 'swtpm', 'apt-get') ?? false)
    : 'the microvm machine is x86-64 only'

/** An image of this tree's guest agent, built once and kept; what it was fetched from, too. */
export async function testImage(): Promise<{ image: Image; paths: Paths }> {
  const parts = [
    join(root, '.build/bin/ambit-guest'),
    ...globSync('src/runtime/microvm-image/*.ts', { cwd: root })
      .filter((path) => !AFTERWARDS.test(path))
      .sort(),
  ]
  const hash = createHash('sha256')
  for (const part of parts) hash.update(readFileSync(join(part.startsWith('/') ? '/' : root, part)))
  const home = join(cache, `microvm-${hash.digest('hex').slice(0, 16)}`)
  const paths = (dir: string): Paths => ({
    config: join(dir, 'config'),
    state: join(dir, 'state'),
    run: join(dir, 'run'),
  })
  const place = (dir: string): string => join(imagesDir(paths(dir)), 'default')
  // Before the lock: who has an image does not wait for those who make one.
  const make = async (): Promise<void> => {
    if (existsSync(home)) return
    const aside = `${home}.new`
    rmSync(aside, { recursive: true, force: true })
    mkdirSync(aside, { recursive: true })
    const say = (line: string): void => console.error(`guest image: ${line}`)
    await buildImage({ out: place(aside), cache: join(cache, 'microvm-packages'), paths: paths(aside), say })
    renameSync(aside, home)
    dropOld()
  }
  if (!existsSync(home)) await alone(make)
  utimesSync(home, new Date(), new Date())
  return { image: await verifyImage(place(home), paths(home)), paths: paths(home) }
}

/** One test run at a time: they share what apt fetches, with those of other trees. */
async function alone(work: () => Promise<void>): Promise<void> {
  const lock = join(cache, 'microvm-lock')
  mkdirSync(cache, { recursive: true })
  while (!taken(lock)) {
    const held = statSync(lock, { throwIfNoEntry: false })
    // Whoever held it so long was killed.
    if (held && held.mtimeMs < Date.now() - LOCK_MS) rmSync(lock, { recursive: true, force: true })
    await pause(200)
  }
  try {
    await work()
  } finally {
    rmSync(lock, { recursive: true, force: true })
  }
}

function taken(lock: string): boolean {
  try {
    mkdirSync(lock)
    return true
  } catch {
    return false
  }
}

/** Keeps the two images that were used last, and what another tree's tests may be using. */
function dropOld(): void {
  const hour = 3600 * 1000
  const images = globSync('microvm-????????????????{,.*}', { cwd: cache }).map((name) => {
    const path = join(cache, name)
    return { path, used: statSync(path).mtimeMs }
  })
  for (const { path, used } of images.toSorted((a, b) => b.used - a.used).slice(2))
    if (Date.now() - used > hour) rmSync(path, { recursive: true, force: true })
}

export interface GuestOptions {
  readonly image: Pick<Image, 'kernel' | 'initramfs' | 'root' | 'commandLine'>
  /** For sockets. */
  readonly dir: string
  /** Of `ambit-view`; without it nothing answers the view's port. */
  readonly viewSpec?: string
  readonly quiet?: boolean
}

export interface Command {
  readonly argv: readonly string[]
  readonly mounts?: readonly LaunchMount[]
  readonly cwd?: string
  readonly terminal?: boolean
  readonly window?: readonly [number, number]
  readonly net?: { readonly address: string; readonly prefix: number; readonly gateway: string }
}

export interface Event {
  readonly ev: string
  readonly n?: number
  readonly code?: number
  readonly signal?: number
  readonly why?: string
  readonly limit?: string
  readonly fact?: { readonly k: string; readonly path?: string; readonly argv?: readonly string[] }
  readonly controls?: readonly { readonly control: string; readonly state: string; readonly detail: string }[]
}

const PORTS = ['control', 'io', 'view'] as const
const STDIN = 0
/** Milliseconds. A machine boots in three seconds where it has a processor to itself. */
const PATIENCE = 90_000

export class Guest {
  readonly events: Event[] = []
  readonly output = new Map<number, string>()
  /** Milliseconds from the start of QEMU to `hello`. */
  helloAfter = 0
  readonly exited: Promise<unknown>
  readonly #qemu: ChildProcess
  #view: ChildProcess | undefined
  #control: Socket | undefined
  #io: Socket | undefined
  #news: () => void = () => {}
  #console = ''

  constructor(qemu: ChildProcess) {
    this.#qemu = qemu
    // A test that breaks off must not leave a machine running.
    process.once('exit', () => qemu.kill('SIGKILL'))
    this.exited = once(qemu, 'exit').then((end) => {
      this.#news()
      return end
    })
    for (const stream of [qemu.stdout, qemu.stderr])
      stream?.on('data', (chunk: Buffer) => {
        this.#console += chunk.toString()
        this.#news()
      })
  }

  /** MiB of the host's memory that QEMU holds. */
  get resident(): number {
    const status = readFileSync(`/proc/${this.#qemu.pid}/status`, 'utf8')
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024
  }

  /** What the kernel said, where `quiet` is false. */
  get console(): string {
    return this.#console
  }

  connect(control: Socket, io: Socket, view: ChildProcess | undefined): void {
    this.#control = control
    this.#io = io
    this.#view = view
    for (const socket of [control, io]) socket.on('error', () => {})
    createInterface({ input: control }).on('line', (line) => this.#note(JSON.parse(line) as Event))
    let held = Buffer.alloc(0)
    io.on('data', (chunk: Buffer) => {
      held = Buffer.concat([held, chunk])
      while (held.length >= 5 && held.length >= 5 + held.readUInt32LE(1)) {
        const end = 5 + held.readUInt32LE(1)
        const stream = held[0] ?? 0
        this.output.set(stream, (this.output.get(stream) ?? '') + held.toString('utf8', 5, end))
        held = held.subarray(end)
        this.#news()
      }
    })
    control.resume()
    io.resume()
  }

  #note(event: Event): void {
    this.events.push(event)
    if (event.ev === 'launch') this.tell({ op: 'recorded', n: event.n })
    this.#news()
  }

  tell(order: object): void {
    this.#control?.write(`${JSON.stringify(order)}\n`)
  }

  type(text: string | null): void {
    const bytes = Buffer.from(text ?? '')
    const header = Buffer.from([STDIN, 0, 0, 0, 0])
    header.writeUInt32LE(bytes.length, 1)
    this.#io?.write(Buffer.concat([header, bytes]))
  }

  /** The first event for which `found` holds. Rejects when the guest fails or ends before. */
  async until(found: (event: Event) => boolean, ms = PATIENCE): Promise<Event> {
    const deadline = Date.now() + ms
    for (;;) {
      const event = this.events.find(found)
      if (event) return event
      const failed = this.events.find(({ ev }) => ev === 'failed')
      if (failed) throw new Error(`the guest failed: ${JSON.stringify(failed)}`)
      await this.#something(deadline)
    }
  }

  async shows(stream: number, text: string | RegExp, ms = PATIENCE): Promise<void> {
    const deadline = Date.now() + ms
    const shown = (): string => this.output.get(stream) ?? ''
    while (!(typeof text === 'string' ? shown().includes(text) : text.test(shown())))
      await this.#something(deadline)
  }

  async says(text: string, ms: number): Promise<void> {
    const deadline = Date.now() + ms
    while (!this.#console.includes(text)) await this.#something(deadline)
  }

  async #something(deadline: number): Promise<void> {
    if (this.#qemu.exitCode !== null || Date.now() > deadline)
      throw new Error(`the guest said no more: ${JSON.stringify(this.events)} ${this.#console}`)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.max(1, deadline - Date.now()))
      this.#news = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  /** Starts `command` and gives how it ended, with what it wrote. */
  async run(command: Command): Promise<{ end: Event; out: string; err: string }> {
    await this.prepare(command)
    this.tell({ op: 'exec' })
    const end = await this.until(({ ev }) => ev === 'ended' || ev === 'over-limit')
    return { end, out: this.output.get(1) ?? '', err: this.output.get(2) ?? '' }
  }

  /** Up to `ready`: the command waits. */
  async prepare(command: Command): Promise<Event> {
    this.tell({ op: 'start', spec: startSpec(command) })
    return this.until(({ ev }) => ev === 'ready')
  }

  async stop(): Promise<void> {
    this.#qemu.kill('SIGKILL')
    await this.exited
    this.#view?.kill('SIGKILL')
    this.#control?.destroy()
    this.#io?.destroy()
  }
}

function startSpec({ argv, mounts = [], cwd = '/', terminal = false, window, net }: Command): object {
  return {
    v: 1,
    session: 's-test',
    hostname: 'ambit',
    inside: { uid: 1000, gid: 1000 },
    mounts: [
      { kind: 'tmpfs', target: '/tmp', size: 1 << 24, mode: 0o1777 },
      { kind: 'file', target: '/etc/hostname', content: 'ambit\n', mode: 0o644 },
      ...mounts,
    ],
    argv,
    env: { PATH: '/usr/bin:/bin', TERM: 'xterm' },
    cwd,
    terminal,
    window: window ?? null,
    limits: { processes: 100, memory: 256 << 20, cpus: 1, wallclock: 60_000, disk: 1 << 30, openFiles: 1024 },
    entropy: randomBytes(64).toString('hex'),
    time: Date.now(),
    net: net ?? null,
  }
}

/** Starts a machine; resolves at its `hello`. */
export async function startGuest({ image, dir, viewSpec, quiet = true }: GuestOptions): Promise<Guest> {
  const waiting = PORTS.map((name) => accept(join(dir, name)))
  await Promise.all(waiting.map(({ listening }) => listening))
  const started = performance.now()
  const guest = new Guest(
    spawn('qemu-system-x86_64', machine(image, dir, quiet), { stdio: ['ignore', 'pipe', 'pipe'] }),
  )
  const [control, io, port] = await Promise.race([
    Promise.all(waiting.map(({ socket }) => socket)),
    guest.exited.then((): never => {
      throw new Error('QEMU ended at once')
    }),
  ])
  if (!control || !io || !port) throw new Error('a port is missing')
  guest.connect(control, io, viewSpec === undefined ? undefined : serve(viewSpec, port))
  await guest.until(({ ev }) => ev === 'hello')
  guest.helloAfter = performance.now() - started
  return guest
}

function accept(path: string): { listening: Promise<unknown>; socket: Promise<Socket> } {
  const server = createServer({ pauseOnConnect: true })
  server.listen(path)
  const socket = once(server, 'connection').then(([connection]) => {
    server.close()
    return connection as Socket
  })
  return { listening: once(server, 'listening'), socket }
}

function serve(spec: string, port: Socket): ChildProcess {
  const view = spawn(nativeBinary('ambit-view'), ['serve', spec], {
    stdio: ['ignore', 'ignore', 'inherit', port, 'pipe'],
    env: {},
  })
  port.destroy()
  return view
}

/** The devices that docs/architecture.md names, and nothing else. */
function machine(image: GuestOptions['image'], dir: string, quiet: boolean): string[] {
  const ports = PORTS.flatMap((name) => [
    '-chardev',
    `socket,id=${name},path=${join(dir, name)}`,
    '-device',
    `virtserialport,chardev=${name},name=ambit.${name}`,
  ])
  const line = `${image.commandLine} tsc_early_khz=${execFileSync(nativeBinary('ambit-launch'), ['tsc']).toString().trim()} mitigations=off`
  return [
    ['-M', 'microvm,rtc=on,isa-serial=' + (quiet ? 'off' : 'on'), '-accel', 'tcg', '-cpu', 'max'],
    ['-m', '512', '-smp', '1', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    quiet ? [] : ['-serial', 'stdio'],
    ['-kernel', image.kernel, '-initrd', image.initramfs],
    ['-append', quiet ? line : `${line.replace(/quiet|loglevel=1|8250.nr_uarts=0/g, '')} console=ttyS0`],
    ['-blockdev', `driver=file,filename=${image.root},node-name=root,read-only=on`],
    ['-device', 'virtio-blk-device,drive=root', '-device', 'virtio-rng-device'],
    ['-device', 'virtio-balloon-device,free-page-reporting=on'],
    ['-device', 'virtio-serial-device', ...ports],
  ].flat()
}
