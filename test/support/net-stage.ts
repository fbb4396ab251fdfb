/**
 * A stage in a network of its own (lab.ts) with a small internet around it: hosts that a profile may name, one of the
 * attacker's, and a count of what arrived where. For cases about what leaves.
 */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { attackIn, once } from './case.ts'
import { type DnsRecorder, recordDns } from './dns.ts'
import { claimAddress, labMissing, packetsOut } from './lab.ts'
import { PROXY_HOST } from './runtime.ts'
import { Stage, type StageOptions, type Step, type Steps } from './stage.ts'
import {
  type Answer,
  type Listener,
  type Seen,
  serveHttps,
  serveTcp,
  settle,
  type Upstream,
} from './upstream.ts'
import type { As } from './users.ts'

export const attack = attackIn(labMissing)

export const PUBLIC = '93.184.216.34'
export const EVIL = '93.184.216.66'
export const REAL_KEY = 'sk-real-key-of-the-user-0123456789'
export const FOREIGN_KEY = 'sk-attackers-own-key-9876543210'
export const KEY = {
  name: 'key',
  kind: 'header',
  header: 'x-api-key',
  source: 'env:REAL_KEY',
  env: 'API_KEY',
} as const

const HOSTS = ['good.test', 'other.test', 'key.test', 'limited.test', 'a.wild.test']

export interface World {
  readonly dns: DnsRecorder
  /** Serves every host of `HOSTS`. */
  readonly good: Upstream
  readonly evil: Upstream
  readonly evilTcp: Listener
  /** A service of the host, on its loopback. */
  readonly local: Listener
}

/** `/echo` gives the credential header back, in head and body; anything else is `hello`. */
const answer: Answer = (request, response) => {
  const key = String(request.headers['x-api-key'] ?? 'no key')
  if (request.url === '/redirect') response.writeHead(302, { location: 'https://evil.test/taken' }).end()
  else if (request.url.startsWith('/echo'))
    response.writeHead(200, { 'x-echo': key, 'set-cookie': `k=${key}` }).end(`you sent ${key}.`)
  else response.end('hello')
}

/** The smallest internet: one public address that serves `hosts`, and a resolver that knows them. */
export async function goodHost(
  answer?: Answer,
  hosts: readonly string[] = ['good.test'],
): Promise<{ dns: DnsRecorder; good: Upstream }> {
  claimAddress(PUBLIC)
  const dns = await recordDns()
  for (const host of hosts) dns.zone.set(host, [PUBLIC])
  return { dns, good: await serveHttps(hosts, { address: PUBLIC, port: 443, ...(answer && { answer }) }) }
}

/** Made once a test file. */
export const world = once<null, World>(async () => {
  for (const address of [PUBLIC, EVIL]) claimAddress(address)
  const dns = await recordDns()
  const good = await serveHttps(HOSTS, { address: PUBLIC, port: 443, answer })
  const evil = await serveHttps(['evil.test'], { address: EVIL, port: 443 })
  const evilTcp = await serveTcp(EVIL, 61_880, 'evil speaks\r\n')
  const local = await serveTcp('127.0.0.1', 6277, 'local service')
  for (const host of HOSTS) dns.zone.set(host, [PUBLIC])
  for (const host of ['evil.test', 'data.evil.test', 'good.test.evil.test']) dns.zone.set(host, [EVIL])
  return { dns, good, evil, evilTcp, local }
})

export async function netStage(as: As, options: StageOptions = {}): Promise<Stage> {
  const { good, evil } = await world(null)
  const stage = new Stage(as, { files: { 'notes.txt': 'notes of the user\n' }, ...options })
  writeFileSync(join(stage.root, 'ca.pem'), good.ca + evil.ca, { mode: 0o644 })
  return stage
}

/** A rule that trusts the certificates of this world. */
export const rule = (stage: Stage, host: string, more: object = {}): object => ({
  host,
  ca: join(stage.root, 'ca.pem'),
  ...more,
})

/** For programs outside the session, in positive controls. */
export const outsideEnv = (stage: Stage): Record<string, string> => ({
  NODE_EXTRA_CA_CERTS: join(stage.root, 'ca.pem'),
  CURL_CA_BUNDLE: join(stage.root, 'ca.pem'),
})

export interface Watched<T> {
  readonly value: T
  /** Requests that reached the hosts a profile may name. */
  readonly arrived: readonly Seen[]
  /** Connections to the attacker's. */
  readonly evil: number
  readonly local: number
  readonly asked: readonly string[]
  readonly packets: number
}

/** What the outside saw while `run` ran. */
export async function watching<T>(run: () => Promise<T>): Promise<Watched<T>> {
  const { dns, good, evil, evilTcp, local } = await world(null)
  const evilNow = (): number => evil.connections() + evilTcp.connections()
  const [requests, evils, locals, asked, packets] = [
    good.requests.length,
    evilNow(),
    local.connections(),
    dns.asked.length,
    packetsOut(),
  ]
  const value = await run()
  await settle()
  return {
    value,
    arrived: good.requests.slice(requests),
    evil: evilNow() - evils,
    local: local.connections() - locals,
    asked: dns.asked.slice(asked),
    packets: packetsOut() - packets,
  }
}

/** Everything of a request that could carry data. */
export const wire = (request: Seen): string =>
  [request.method, request.url, ...request.rawHeaders, request.body].join('\n')

export const head = (lines: string): string => lines.replaceAll('\n', '\r\n')
export const get = (name: string, url: string, more: object = {}): Step => ({
  name,
  op: 'http',
  url,
  ...more,
})
export const post = (name: string, url: string, body: string, headers: object = {}): Step =>
  get(name, url, { method: 'POST', body, headers })
/** The gate answers or closes, sooner or later. */
const PATIENCE = 20_000

/** A CONNECT to the explicit proxy. */
export const connect = (name: string, target: string): Step => ({
  name,
  op: 'proxy',
  send: head(`CONNECT ${target} HTTP/1.1\nhost: ${target}\n\n`),
  wait: 1500,
  patience: PATIENCE,
})
/** Bytes over TLS to a host, as they are. */
export const raw = (name: string, send: unknown, host = 'good.test', more: object = {}): Step => ({
  name,
  op: 'tls',
  host,
  port: 443,
  send,
  wait: 1500,
  patience: PATIENCE,
  ...more,
})
export const sh = (name: string, cmd: string): Step => ({ name, op: 'sh', cmd, timeout: 15_000 })

/** 403 with a reason, or no answer at all. */
export function refused(steps: Steps, names: readonly string[]): string {
  const statuses = names.map((name) => {
    const { ok, value } = steps.result(name)
    const status = ok ? (value.status ?? Number(/^HTTP\/1\.1 (\d+)/.exec(value.received)?.[1] ?? 0)) : 0
    assert.ok(status === 0 || (status >= 400 && status < 500), `${name}: ${status}`)
    return status
  })
  return [...new Set(statuses)].join(' ')
}

/** In the session, a relay to the proxy: a CONNECT by way of it is decided like any other. */
export const RELAY = `const net=require('net');
const relay=net.createServer(c=>{const p=net.connect(61880,'${PROXY_HOST}');c.pipe(p).pipe(c);p.on('error',()=>c.destroy());c.on('error',()=>p.destroy())}).listen(0,'127.0.0.1',async()=>{
for(const host of ['good.test','evil.test'])await new Promise(done=>{const s=net.connect(relay.address().port,'127.0.0.1',()=>s.write('CONNECT '+host+':443 HTTP/1.1\\r\\nhost: '+host+':443\\r\\n\\r\\n'));
s.on('data',d=>{console.log(host,String(d).slice(9,12));s.destroy();done()});s.on('error',done)});process.exit()})`
