/** A gate between real clients and recording upstream servers, all on loopback. */
import { execFile } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect as connectTcp, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { duplexPair } from 'node:stream'
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from 'node:tls'
import type { FactBody, FactKind } from '../../src/audit/fact.ts'
import { createGate, type Gate, type GateOptions } from '../../src/gate/gate.ts'
import type { BoundPorts } from '../../src/gate/options.ts'
import type { SessionState } from '../../src/policy/decision.ts'
import type { NetworkRule, Plan } from '../../src/profile/plan.ts'
import { createTestCa } from '../fixtures/servers/certificates.ts'
import { dnsQuery, readDnsAnswer } from '../fixtures/servers/dns-message.ts'

export const testCa = createTestCa()

export function rule(fields: Partial<NetworkRule> & { host: string }): NetworkRule {
  return {
    id: `network[${fields.host}]`,
    ports: [443],
    methods: null,
    paths: null,
    clearance: 'confidential',
    credential: null,
    inspect: true,
    plain: false,
    raw: false,
    connect: null,
    ca: testCa.cert,
    ...fields,
  }
}

export function planOf(network: readonly NetworkRule[], changes: Partial<Plan> = {}): Plan {
  return {
    version: 1,
    profile: { name: 'test', title: 'Test', digest: '00', origin: 'shipped', file: '/profiles/test.yaml' },
    isolation: {
      runtime: 'os-sandbox',
      limits: 'partly',
      cpus: 1,
      memory: 1,
      processes: 1,
      wallclock: 3_600_000,
      disk: 1,
    },
    roots: [],
    network,
    upload: { perRequest: 4 << 20, perMinute: 1 << 30, perSession: 1 << 30 },
    credentials: [],
    environment: { pass: [], set: {} },
    desktop: { clipboard: 'deny', display: 'deny', audio: 'deny' },
    approvals: [],
    mirror: [],
    ...changes,
  }
}

export interface Bench {
  readonly gate: Gate
  readonly ports: BoundPorts
  readonly facts: FactBody[]
  readonly state: { label: SessionState['label']; stopped: string | null }
  /** File with the session's CA, for clients. */
  readonly ca: string
  of<K extends FactKind>(kind: K): Extract<FactBody, { k: K }>[]
  /** Synthetic address of a name, asked as a client in the session would. */
  lookup(name: string, type?: number): Promise<{ rcode: number; addresses: string[] }>
  /** Where the next connections to the redirect port were going. */
  aim(address: string, port: number): void
  /** curl through the redirect, as if DNS and nftables had led it there. */
  curl(
    url: string,
    ...args: string[]
  ): Promise<{ code: number; status: number; body: string; stderr: string }>
  close(): Promise<void>
}

export async function startBench(plan: Plan, options: Partial<GateOptions> = {}): Promise<Bench> {
  const facts: FactBody[] = []
  const state: Bench['state'] = { label: 'public', stopped: null }
  let aimed = { address: '', port: 0 }
  const gate = await createGate({
    plan,
    secrets: new Map(),
    placeholders: new Map(),
    record: (fact) => void facts.push(fact),
    barrier: async () => undefined,
    state: () => ({ ...state }),
    upstream: { proxy: null, roots: [] },
    resolve: async () => [],
    originalDestination: () => aimed,
    ...options,
  })
  const any = { host: '127.0.0.1', port: 0 }
  const ports = await gate.listen({ tcp: any, dns: any, dnsTcp: any, proxy: any })
  const dir = mkdtempSync(join(tmpdir(), 'ambit-gate-'))
  const ca = join(dir, 'ca.pem')
  writeFileSync(ca, gate.caPem)
  const lookup = (name: string, type = 1) => ask(ports.dns, dnsQuery(name, type)).then(readDnsAnswer)
  return {
    gate,
    ports,
    facts,
    state,
    ca,
    of: (kind) => facts.filter((fact) => fact.k === kind) as never,
    lookup,
    aim: (address, port) => {
      aimed = { address, port }
    },
    curl: async (url, ...args) => {
      const { hostname, port, protocol } = new URL(url)
      const number = Number(port || (protocol === 'https:' ? 443 : 80))
      const { addresses } = await lookup(hostname)
      aimed = { address: addresses[0] ?? hostname, port: number }
      return await curl('--cacert', ca, '--connect-to', `::127.0.0.1:${ports.tcp}`, ...args, url)
    },
    close: async () => {
      await gate.close(0)
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

/** Runs curl; `status` is 0 when no answer came. */
export function curl(
  ...args: string[]
): Promise<{ code: number; status: number; body: string; stderr: string }> {
  const all = [
    '-sS',
    '--max-time',
    '20',
    '--noproxy',
    args.includes('--proxy') ? '' : '*',
    '-w',
    '\n%{http_code} %{http_connect}',
    ...args,
  ]
  return new Promise((resolve) => {
    execFile('curl', all, { maxBuffer: 1 << 27 }, (error, stdout, stderr) => {
      const cut = stdout.lastIndexOf('\n')
      const [status = '0', connect = '0'] = stdout.slice(cut + 1).split(' ')
      resolve({
        code: typeof error?.code === 'number' ? error.code : 0,
        status: Number(status) || Number(connect),
        body: stdout.slice(0, cut),
        stderr,
      })
    })
  })
}

/** Sends bytes to `host` over TLS as HTTP/1.1 and reads until the gate closes or is silent for `quietMs`. */
export async function rawTls(
  bench: Bench,
  host: string,
  bytes: string | Buffer,
  quietMs = 400,
): Promise<string> {
  return await talk(await tlsTo(bench, host), 'secureConnect', bytes, quietMs)
}

/** A TLS client that asked for `host` and is on its way there through the redirect. */
export async function tlsTo(bench: Bench, host: string, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const { addresses } = await bench.lookup(host)
  bench.aim(addresses[0] ?? host, 443)
  return connectTls({
    host: '127.0.0.1',
    port: bench.ports.tcp,
    servername: host,
    ca: bench.gate.caPem,
    ...options,
  })
}

/**
 * A ClientHello that offers X25519 and has a key for P-521 only: it is asked for another one, and what follows is read
 * in the clear.
 */
export async function helloWithoutKey(servername: string): Promise<Buffer> {
  const [ours, theirs] = duplexPair()
  const tls = connectTls({ socket: ours, servername, ecdhCurve: 'P-521:X25519', ALPNProtocols: ['http/1.1'] })
  tls.on('error', () => undefined)
  const [hello] = (await once(theirs, 'data')) as [Buffer]
  tls.destroy()
  return hello
}

/** The same in the clear, to where `aim` points. */
export function rawTcp(port: number, bytes: string | Buffer, quietMs = 400): Promise<string> {
  return talk(connectTcp({ host: '127.0.0.1', port }), 'connect', bytes, quietMs)
}

function talk(socket: Socket, ready: string, bytes: string | Buffer, quietMs: number): Promise<string> {
  return new Promise((resolve) => {
    let answer = ''
    const done = (): void => {
      socket.destroy()
      resolve(answer)
    }
    let timer = setTimeout(done, 10_000)
    socket.on('error', done)
    socket.on('close', done)
    socket.once(ready, () => socket.write(bytes))
    socket.on('data', (chunk: Buffer) => {
      answer += chunk.toString('latin1')
      clearTimeout(timer)
      timer = setTimeout(done, quietMs)
    })
  })
}

/** Resolves when `done` says so. */
export async function until(done: () => boolean, ms = 15_000): Promise<void> {
  const end = performance.now() + ms
  while (!done()) {
    if (performance.now() > end) throw new Error('waited in vain')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** One UDP message, one answer. */
export function ask(port: number, message: Buffer, ms = 10_000): Promise<Buffer> {
  const socket = createSocket('udp4')
  return new Promise<Buffer>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no answer')), ms)
    socket.once('message', (answer) => {
      clearTimeout(timer)
      resolve(answer)
    })
    socket.send(message, port, '127.0.0.1')
  }).finally(() => socket.close())
}
