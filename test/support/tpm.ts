/** A TPM of the test's own (swtpm, driven by tpm2-tools), and the independent view of what Ambit's TPMs say. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Quoted } from '../../src/runtime/attestation/document.ts'
import { withoutPrograms } from './programs.ts'

/** Why tpm2-tools cannot judge here, or null. */
export const tpmToolsMissing = withoutPrograms('swtpm', 'tpm2_quote', 'tpm2_checkquote', 'tpm2_eventlog')

export interface Extension {
  readonly register: number
  readonly text: string
  /** Hex. */
  readonly digest: string
}

export const sha256 = (text: string | Buffer): string => createHash('sha256').update(text).digest('hex')

/** A crypto-agile event log of the TCG with SHA-256 alone; written a second time, apart from native/launch. */
export function eventLogOf(events: readonly Extension[]): Buffer {
  const le = (value: number): Buffer => {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(value)
    return bytes
  }
  const header = Buffer.concat([
    Buffer.from('Spec ID Event03\0'),
    Buffer.from('00000000000200020100000' + '00b00200000', 'hex'),
  ])
  const parts = [le(0), le(3), Buffer.alloc(20), le(header.length), header]
  for (const { register, text, digest } of events) {
    const words = Buffer.from(`${text}\0`)
    parts.push(le(register), le(13), le(1), Buffer.from('0b00', 'hex'), Buffer.from(digest, 'hex'))
    parts.push(le(words.length), words)
  }
  return Buffer.concat(parts)
}

/** swtpm with an empty state below `dir`, and a restricted key in it. */
export class TestTpm {
  readonly #dir: string
  readonly #swtpm: ChildProcess
  readonly #tcti: string

  private constructor(dir: string, swtpm: ChildProcess, port: number) {
    this.#dir = dir
    this.#swtpm = swtpm
    this.#tcti = `swtpm:host=127.0.0.1,port=${port}`
  }

  static async start(dir: string): Promise<TestTpm> {
    const state = join(dir, 'state')
    mkdirSync(state, { recursive: true })
    const port = await freePair()
    const sockets = ['--server', `type=tcp,port=${port}`, '--ctrl', `type=tcp,port=${port + 1}`]
    const flags = ['--flags', 'not-need-init,startup-clear']
    const swtpm = spawn('swtpm', ['socket', '--tpm2', '--tpmstate', `dir=${state}`, ...sockets, ...flags], {
      stdio: 'ignore',
    })
    process.once('exit', () => swtpm.kill())
    const tpm = new TestTpm(dir, swtpm, port)
    for (let tries = 50; ; tries--) {
      try {
        tpm.#tool('tpm2_pcrread', 'sha256:0')
        break
      } catch (error) {
        if (tries === 0) throw error
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    }
    const attributes = 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign'
    tpm.#tool(
      'tpm2_createprimary',
      '-C',
      'p',
      '-G',
      'ecc256:ecdsa-sha256:null',
      '-g',
      'sha256',
      '-a',
      attributes,
      '-c',
      'ak.ctx',
    )
    tpm.#tool('tpm2_readpublic', '-c', 'ak.ctx', '-f', 'tss', '-o', 'ak.pub')
    return tpm
  }

  extend({ register, digest }: Pick<Extension, 'register' | 'digest'>): void {
    this.#tool('tpm2_pcrextend', `${register}:sha256=${digest}`)
  }

  quote(nonce: string, registers = '8,9,12,15'): Pick<Quoted, 'nonce' | 'ak' | 'quote' | 'signature'> {
    const out = ['-m', 'quote', '-s', 'signature', '-g', 'sha256']
    this.#tool('tpm2_quote', '-c', 'ak.ctx', '-l', `sha256:${registers}`, '-q', nonce, ...out)
    this.#tool('tpm2_flushcontext', '-t')
    const hex = (name: string): string => readFileSync(join(this.#dir, name)).toString('hex')
    return { nonce, ak: hex('ak.pub'), quote: hex('quote'), signature: hex('signature') }
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#swtpm.once('exit', resolve))
    this.#swtpm.kill()
    await ended
  }

  #tool(name: string, ...args: string[]): void {
    execFileSync(name, args, {
      cwd: this.#dir,
      env: { ...process.env, TPM2TOOLS_TCTI: this.#tcti },
      stdio: 'pipe',
    })
  }
}

/** What tpm2_checkquote says, and the registers that tpm2_eventlog replays from the log; null where it refuses. */
export function judge(
  dir: string,
  quoted: Quoted,
  nonce: string,
): { signed: boolean; registers: Record<number, string> } {
  mkdirSync(dir, { recursive: true })
  for (const name of ['ak', 'quote', 'signature', 'eventLog'] as const)
    writeFileSync(join(dir, name), Buffer.from(quoted[name], 'hex'))
  const check = ['-u', 'ak', '-m', 'quote', '-s', 'signature', '-g', 'sha256', '-q', nonce]
  const run = (name: string, ...args: string[]): string | null => {
    try {
      return execFileSync(name, args, { cwd: dir, stdio: 'pipe' }).toString()
    } catch {
      return null // its way to refuse
    }
  }
  const replayed = run('tpm2_eventlog', 'eventLog') ?? ''
  const values = [
    ...replayed.slice(replayed.lastIndexOf('pcrs:')).matchAll(/^\s+(\d+)\s*: 0x([0-9a-f]{64})$/gm),
  ]
  return {
    signed: run('tpm2_checkquote', ...check) !== null,
    registers: Object.fromEntries(values.map(([, register, value = '']) => [Number(register), value])),
  }
}

/** A port whose successor is free, too: the protocol wants both. */
async function freePair(): Promise<number> {
  const listen = (port: number) =>
    new Promise<ReturnType<typeof createServer> | null>((resolve) => {
      const server = createServer()
      server.once('error', () => resolve(null))
      server.listen(port, '127.0.0.1', () => resolve(server))
    })
  for (;;) {
    const first = await listen(0)
    const address = first?.address() as AddressInfo | undefined
    if (!address) continue
    const { port } = address
    const second = await listen(port + 1)
    for (const server of [first, second]) server?.close()
    if (second) return port
  }
}
