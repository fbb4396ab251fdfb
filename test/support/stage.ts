/**
 * A stage: one user's project, home, profile and Ambit state in a directory of its own, on which the built command
 * runs. Everything on it, processes included, goes when the test process ends.
 */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, chownSync, cpSync, existsSync, lchownSync, lstatSync, mkdirSync } from 'node:fs'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Summary } from '../../src/session/end.ts'
import { noteStage, removeStage } from './left-stages.ts'
import { placeImage } from './place-image.ts'
import { placeSnapshot } from './place-snapshot.ts'
import { type Product, product } from './product.ts'
import { onRuntime, PATIENCE, RUNTIME } from './runtime.ts'
import { account, type As, identity } from './users.ts'

export interface Ran {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
  readonly ms: number
}

export interface SessionRan extends Ran {
  /** Throws, with all output, when the session wrote none. */
  readonly summary: Summary
}

export interface Result {
  readonly ok: boolean
  readonly value?: any
  readonly error?: string
  readonly text?: string
}

export interface Step {
  readonly name: string
  readonly op: string
  readonly [argument: string]: unknown
}

export interface Steps extends SessionRan {
  /** The result of a step; throws with the session's output when there is none. */
  result(name: string): Result
}

export interface RunOptions {
  readonly input?: string
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** Milliseconds on os-sandbox, more on slower runtimes; the command is killed after it. */
  readonly timeout?: number
  /** Descriptors beyond 2 to hand over, for tests of inheritance. */
  readonly extraFds?: readonly number[]
  /** Told once the child runs. */
  readonly onStart?: (pid: number) => void
}

export interface SessionOptions extends RunOptions {
  /** More arguments of `ambit run`. */
  readonly args?: readonly string[]
  /** Parts of the profile's `spec` that differ from the stage's. */
  readonly spec?: Readonly<Record<string, unknown>>
}

export interface StageOptions {
  /** Files of the project: path relative to it → text. A path that ends in `/` is a directory. */
  readonly files?: Readonly<Record<string, string>>
  /** Files of the user's real home. */
  readonly home?: Readonly<Record<string, string>>
  readonly spec?: Readonly<Record<string, unknown>>
}

const SPEC = {
  isolation: { runtime: 'os-sandbox', limits: 'partly', memory: '4GiB', processes: 512, wallclock: '5m' },
  files: [{ path: '${project}', access: 'write' }],
  network: [],
}

// Every stage of a file cleans up when its process ends, also when somebody ends the run.
process.setMaxListeners(0)
// It may be told twice: by whoever ends all, and as the child of one that ended.
process.on('SIGTERM', () => process.exit(143))

export class Stage {
  readonly as: As
  readonly root: string
  /** What a session may see. */
  readonly project: string
  readonly workspace: string
  /** The user's real home; not visible inside. */
  readonly home: string
  /** A place beside the project that no profile names. */
  readonly outside: string
  readonly ambitHome: string
  readonly product: Product
  /** Of its profiles, where a session does not say otherwise. */
  spec: Readonly<Record<string, unknown>>
  /** The profile written last. */
  latestProfile = ''
  #runs = 0
  /** Commands may begin at once. */
  #machine: Promise<void> | undefined

  constructor(as: As, options: StageOptions = {}) {
    this.as = as
    this.product = product()
    const mark = `ambit-stage-${randomBytes(4).toString('hex')}`
    this.root = join(account(as).home, mark)
    this.project = join(this.root, 'project')
    this.workspace = join(this.root, 'workspace')
    this.home = join(this.root, 'home')
    this.outside = join(this.root, 'outside')
    this.ambitHome = join(this.root, 'ambit')
    this.spec = { ...SPEC, ...options.spec }
    noteStage(this.root)
    for (const dir of [this.root, this.project, this.home, this.outside, this.ambitHome]) mkdirSync(dir)
    chmodSync(this.ambitHome, 0o700)
    this.put(this.project, options.files ?? {})
    this.put(this.home, options.home ?? {})
    this.own()
    process.once('exit', () => this.dispose())
  }

  /** Writes files below `folder`, owned by the stage's user. */
  put(folder: string, files: Readonly<Record<string, string>>): void {
    for (const [name, text] of Object.entries(files)) {
      const path = join(folder, name)
      mkdirSync(name.endsWith('/') ? path : dirname(path), { recursive: true })
      if (!name.endsWith('/')) writeFileSync(path, text)
    }
    this.own()
  }

  /** Makes everything on the stage its user's own. */
  own(): void {
    const { uid, gid } = account(this.as)
    if (process.getuid?.() !== 0) return
    const give = (path: string): void => {
      const stats = lstatSync(path)
      if (stats.uid !== uid) lchownSync(path, uid, gid)
      if (stats.isDirectory()) for (const name of readdirSync(path)) give(join(path, name))
    }
    // Never below Ambit's own state: it belongs to whoever runs, and may hold mounts.
    for (const dir of [this.project, this.home, this.outside]) give(dir)
    for (const dir of [this.root, this.ambitHome]) chownSync(dir, uid, gid)
    if (existsSync(this.workspace)) give(this.workspace)
  }

  /** Runs the built command as the stage's user. */
  async ambit(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
    return await this.command([this.product.ambit, ...args], options)
  }

  /** Runs any program, outside, as the stage's user with the stage's environment. */
  async command(argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
    if (RUNTIME === 'microvm') await (this.#machine ??= this.#placeMachine())
    const started = performance.now()
    const child = spawn(argv[0] ?? '', argv.slice(1), {
      ...identity(this.as),
      cwd: options.cwd ?? this.project,
      env: { ...this.environment(), ...options.env },
      stdio: ['pipe', 'pipe', 'pipe', ...(options.extraFds ?? [])],
    })
    child.stdin?.on('error', () => {
      // The command may end without reading its input.
    })
    child.stdin?.end(options.input ?? '')
    if (child.pid !== undefined) options.onStart?.(child.pid)
    const timer = setTimeout(() => child.kill('SIGKILL'), (options.timeout ?? 90_000) * PATIENCE)
    const output = [collect(child.stdout), collect(child.stderr)]
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
      child.once('error', reject)
      // Not `close`: a process that outlives the session may hold the pipes, which is for the test to find.
      child.once('exit', (...ended) => setTimeout(() => resolve(ended), 50))
    })
    clearTimeout(timer)
    const [stdout = '', stderr = ''] = output.map((chunks) => Buffer.concat(chunks).toString('utf8'))
    child.stdout?.destroy()
    child.stderr?.destroy()
    return { code, signal, stdout, stderr, ms: performance.now() - started }
  }

  async #placeMachine(): Promise<void> {
    await placeImage(this)
    await placeSnapshot(this, this.#write('warm', SPEC))
  }

  environment(): Record<string, string> {
    const { name } = account(this.as)
    const { PATH = '/usr/bin:/bin' } = process.env
    return { PATH, HOME: this.home, USER: name, LOGNAME: name, LANG: 'C.UTF-8', AMBIT_HOME: this.ambitHome }
  }

  /** Writes the profile, in YAML's JSON form, and returns its path. */
  profile(spec: Readonly<Record<string, unknown>> = {}): string {
    return (this.latestProfile = this.#write(String(++this.#runs), { ...SPEC, ...this.spec, ...spec }))
  }

  #write(name: string, spec: Readonly<Record<string, unknown>>): string {
    const path = join(this.root, `profile-${name}.yaml`)
    const document = {
      apiVersion: 'ambit/v1',
      kind: 'Profile',
      metadata: { name: 'case', title: 'A case of the test suite' },
      spec: { ...spec, isolation: onRuntime(spec.isolation) },
    }
    writeFileSync(path, JSON.stringify(document, null, 2))
    chmodSync(path, 0o644)
    return path
  }

  /** Arguments of `ambit run` that run a command in the project without a word of Ambit's. */
  run(argv: readonly string[], profile: string, ...more: readonly string[]): string[] {
    return ['run', '--yes', '--quiet', ...this.places(profile), ...more, '--', ...argv]
  }

  /** Arguments that say under which profile, and where. */
  places(profile: string): string[] {
    return ['--profile', profile, '--project', this.project, '--workspace', this.workspace]
  }

  /** `ambit run` of a command in the project, under a profile of the stage's. */
  async session(argv: readonly string[], options: SessionOptions = {}): Promise<SessionRan> {
    const profile = this.profile(options.spec)
    const summaryFile = join(this.outside, `summary-${this.#runs}.json`)
    const more = ['--summary', summaryFile, ...(options.args ?? [])]
    const ran = await this.ambit(this.run(argv, profile, ...more), options)
    return {
      ...ran,
      get summary(): Summary {
        if (!existsSync(summaryFile)) throw new Error(`the session left no summary\n${describe(ran)}`)
        return JSON.parse(readFileSync(summaryFile, 'utf8')) as Summary
      },
    }
  }

  /** Runs steps (support/probe/inside.cjs) in a session. */
  async inside(steps: readonly (Step | readonly Step[])[], options: SessionOptions = {}): Promise<Steps> {
    const argv = this.#stepsCommand(steps)
    const ran = await this.session(argv, options)
    return withResults(ran, (name) => findResult(ran, name))
  }

  /** Runs the same steps without Ambit: the positive control. */
  async uncontrolled(steps: readonly (Step | readonly Step[])[], options: RunOptions = {}): Promise<Steps> {
    const ran = await this.command(this.#stepsCommand(steps), options)
    const none = (): never => {
      throw new Error('no session, no summary')
    }
    return withResults(Object.defineProperty({ ...ran } as SessionRan, 'summary', { get: none }), (name) =>
      findResult(ran, name),
    )
  }

  /** The probe and the interpreter lie in the project: an agent brings its own programs. */
  #stepsCommand(steps: readonly unknown[]): string[] {
    const folder = join(this.project, 'tools')
    mkdirSync(folder, { recursive: true })
    const file = join(folder, `steps-${++this.#runs}.json`)
    writeFileSync(file, JSON.stringify(steps, patiently))
    for (const path of [this.product.probe, this.product.inside])
      if (!existsSync(join(folder, path.split('/').at(-1) ?? '')))
        cpSync(path, join(folder, path.split('/').at(-1) ?? ''))
    this.own()
    return [this.product.node, join(folder, 'inside.cjs'), file, join(folder, 'probe'), String(PATIENCE)]
  }

  /** Every OCSF event of the log, oldest first. */
  async events(session?: string): Promise<readonly any[]> {
    const ran = await this.ambit(['log', '--json', ...(session ? ['--session', session] : [])])
    if (ran.code !== 0) throw new Error(`ambit log failed\n${describe(ran)}`)
    return ran.stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
  }

  /** Ends what still runs for this stage and removes it. */
  dispose(): void {
    removeStage(this.root)
  }
}

function collect(stream: NodeJS.ReadableStream | null): Buffer[] {
  const chunks: Buffer[] = []
  stream?.on('data', (chunk: Buffer) => chunks.push(chunk))
  return chunks
}

/** A step's times are those of os-sandbox; a slower kernel gets more before an answer counts as none. */
function patiently(name: string, value: unknown): unknown {
  if (typeof value === 'number' && /^(wait|timeout|patience)$/.test(name)) return value * PATIENCE
  if (typeof value !== 'string' || name !== 'cmd') return value
  // Seconds that a shell's line gives its own commands.
  return value.replace(/(\btimeout|\bcurl [^|;&]*?-m) (\d+)/g, (_, by, n) => `${by} ${Number(n) * PATIENCE}`)
}

/** All that a person needs to see why a run went wrong. */
export function describe(ran: Ran): string {
  return `exit ${ran.code ?? ran.signal}\nstdout: ${ran.stdout.slice(-3000)}\nstderr: ${ran.stderr.slice(-4000)}`
}

function findResult(ran: Ran, name: string): Result {
  const line = ran.stdout.split('\n').find((text) => text.startsWith('AMBIT-RESULTS '))
  if (!line) throw new Error(`the steps did not finish\n${describe(ran)}`)
  const results = JSON.parse(line.slice('AMBIT-RESULTS '.length)) as Record<string, Result>
  const result = results[name]
  if (!result) throw new Error(`no step is named ${name}`)
  return result
}

/** Adds `result` and keeps `summary` lazy: a session that wrote none fails the test that asks for it. */
function withResults(ran: SessionRan, result: (name: string) => Result): Steps {
  const steps = Object.defineProperties({}, Object.getOwnPropertyDescriptors(ran)) as Steps
  return Object.defineProperty(steps, 'result', { value: result })
}
