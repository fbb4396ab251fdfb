/** A child that speaks JSON lines on its stdin and stdout. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Bench } from './figure.ts'

export interface Options {
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
  /** Milliseconds to wait for one answer. */
  readonly patience?: number
}

/** Answers come in the order of the questions; the child's first line is its greeting. */
export class LineProcess {
  readonly #child: ChildProcess
  readonly #patience: number
  readonly #waiting: ((line: Record<string, unknown> | Error) => void)[] = []
  #ended: Error | undefined
  #stderr = ''

  private constructor(argv: readonly string[], options: Options) {
    const [program, ...args] = argv
    this.#patience = options.patience ?? 60_000
    this.#child = spawn(program ?? '', args, {
      cwd: options.cwd ?? '/',
      env: options.env ?? process.env,
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    this.#child.stderr?.on('data', (text: Buffer) => {
      this.#stderr = (this.#stderr + text.toString()).slice(-2000)
    })
    this.#child.stdin?.on('error', () => undefined)
    this.#child.on('error', (error) => this.#end(error.message))
    this.#child.on('close', (code, signal) => this.#end(`ended with ${code ?? signal}`))
    if (this.#child.stdout)
      createInterface(this.#child.stdout).on('line', (line) => this.#waiting.shift()?.(parse(line)))
  }

  /** Starts the child, waits for its greeting, and has `bench` stop it at the end. */
  static async start(
    bench: Bench,
    argv: readonly string[],
    options: Options = {},
  ): Promise<{ child: LineProcess; greeting: Record<string, unknown> }> {
    const child = new LineProcess(argv, options)
    bench.defer(() => child.stop())
    return { child, greeting: await child.#next() }
  }

  get pid(): number {
    return this.#child.pid ?? -1
  }

  /** Sends one order; rejects when the answer is an error. */
  async ask(order: Record<string, unknown>): Promise<Record<string, unknown>> {
    const answer = this.#next()
    this.#child.stdin?.write(`${JSON.stringify(order)}\n`)
    const line = await answer
    if (typeof line.error === 'string') throw new Error(line.error)
    return line
  }

  /** The number `key` of the answer. */
  async number(order: Record<string, unknown>, key: string): Promise<number> {
    const value = (await this.ask(order))[key]
    if (typeof value !== 'number') throw new Error(`the answer has no number "${key}"`)
    return value
  }

  /** Closes its stdin, which ends it; a child that stays is killed. */
  async stop(): Promise<void> {
    if (this.#ended) return
    const gone = new Promise<void>((resolve) => this.#child.once('close', () => resolve()))
    this.#child.stdin?.end()
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), 10_000)
    await gone
    clearTimeout(timer)
  }

  #next(): Promise<Record<string, unknown>> {
    if (this.#ended) return Promise.reject(this.#ended)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(new Error('gave no answer in time')), this.#patience)
      const settle = (line: Record<string, unknown> | Error): void => {
        clearTimeout(timer)
        if (line instanceof Error) reject(line)
        else resolve(line)
      }
      this.#waiting.push(settle)
    })
  }

  #end(why: string): void {
    if (this.#ended) return
    const last = this.#stderr.trim().split('\n').slice(-2).join(' ')
    this.#ended = new Error(last === '' ? why : `${why}: ${last}`)
    for (const settle of this.#waiting.splice(0)) settle(this.#ended)
  }
}

function parse(line: string): Record<string, unknown> | Error {
  try {
    return JSON.parse(line) as Record<string, unknown>
  } catch {
    return new Error(`not a JSON line: ${line.slice(0, 160)}`)
  }
}
