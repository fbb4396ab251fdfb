/**
 * The internet of the network cases: hosts that a profile may name, the attacker's, private addresses that answer, and
 * names that lead to each of them. Wider than the one of net-stage.ts, and with a profile to go with it.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { claimAddress, packetsOut } from './lab.ts'
import { once } from './case.ts'
import { recordDns } from './dns.ts'
import { EVIL, PUBLIC, rule } from './net-stage.ts'
import { Stage, type Step } from './stage.ts'
import { type Answer, serveHttps, serveTcp, settle } from './upstream.ts'
import type { As } from './users.ts'

export const EDGE = '100.63.255.254'
export const METADATA = '169.254.169.254'
/** Addresses that no rule without a pin may lead to. */
export const FORBIDDEN = [
  '127.0.0.1',
  '10.0.0.5',
  '172.16.0.1',
  '192.168.1.1',
  '100.64.0.1',
  METADATA,
  '192.0.2.2',
  '0.0.0.0',
  '224.0.0.1',
  '255.255.255.255',
]
/** Where every session's explicit proxy listens, inside. */
export const PROXY_PORT = 61_880

/** The world outside: made once, watched by all tests. */
export const world = once(async () => {
  for (const address of [PUBLIC, EVIL, EDGE, METADATA, '10.0.0.5', '172.16.0.1', '192.168.1.1', '100.64.0.1'])
    claimAddress(address)
  const dns = await recordDns()
  const answer: Answer = (request, response) => {
    if (request.url === '/redirect') response.writeHead(302, { location: 'https://evil.test/taken' }).end()
    else
      response
        .writeHead(200, { 'alt-svc': 'h3=":443"', 'content-type': 'text/plain' })
        .end(`hello ${request.url}`)
  }
  const good = await serveHttps(['good.test', 'limited.test', 'rebind.test', 'key.test'], {
    address: PUBLIC,
    port: 443,
    answer,
  })
  const evil = await serveHttps(['evil.test'], { address: EVIL, port: 443 })
  const edge = await serveHttps(['edge.test'], { address: EDGE, port: 443 })
  const pinned = await serveHttps(['pinned.test'], {})
  const privates = await Promise.all(
    ['127.0.0.1', '10.0.0.5', '172.16.0.1', '192.168.1.1', '100.64.0.1', METADATA, '192.0.2.2'].map(
      (address) => serveHttps(['private.test'], { address, port: 443 }),
    ),
  )
  const metadata = await serveTcp(METADATA, 80, 'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ncreds')
  const evilTcp = await serveTcp(EVIL, 22, 'SSH-2.0-evil\r\n')
  const local = await serveTcp('127.0.0.1', 0, 'local service')
  for (const host of ['good.test', 'limited.test', 'key.test']) dns.zone.set(host, [PUBLIC])
  for (const host of ['evil.test', 'data.evil.test', 'c2VjcmV0LWRhdGE.evil.test']) dns.zone.set(host, [EVIL])
  dns.zone.set('edge.test', [EDGE])
  for (const [index, address] of FORBIDDEN.entries()) dns.zone.set(`private${index}.test`, [address])
  dns.zone.set('mixed.test', ['10.0.0.5', PUBLIC])
  let asked = 0
  dns.zone.set('rebind.test', () => (asked++ === 0 ? [PUBLIC] : ['127.0.0.1']))
  return { dns, good, evil, edge, pinned, privates, metadata, evilTcp, local }
})

export async function makeStage(as: As): Promise<Stage> {
  const { good, edge, pinned, evil } = await world(null)
  const stage = new Stage(as, { files: { 'notes.txt': 'notes' } })
  const pem = [good, edge, pinned, evil].map((upstream) => upstream.ca).join('')
  writeFileSync(join(stage.root, 'ca.pem'), pem, { mode: 0o644 })
  return stage
}

/** The profile of most tests. */
export async function spec(stage: Stage): Promise<Record<string, unknown>> {
  const { pinned } = await world(null)
  return {
    network: [
      rule(stage, 'good.test', { ports: [443, '80/http'] }),
      rule(stage, 'limited.test', { methods: ['GET'], paths: ['/v1/*'] }),
      rule(stage, 'edge.test'),
      rule(stage, 'rebind.test'),
      rule(stage, 'mixed.test'),
      rule(stage, 'pinned.test', { connect: `127.0.0.1:${pinned.port}` }),
      ...FORBIDDEN.map((_, index) => rule(stage, `private${index}.test`)),
      rule(stage, 'key.test', { paths: ['/v1/messages'], credential: 'key' }),
    ],
    credentials: [
      { name: 'key', kind: 'header', header: 'x-api-key', source: 'env:REAL_KEY', env: 'API_KEY' },
    ],
    upload: { perRequest: '1MiB', perMinute: '100MiB', perSession: '100MiB' },
  }
}

export const outsideEnv = (stage: Stage): Record<string, string> => ({
  NODE_EXTRA_CA_CERTS: join(stage.root, 'ca.pem'),
})

/** What the outside saw while `run` ran. */
export async function watching<T>(
  run: () => Promise<T>,
): Promise<{ value: T; packets: number; asked: string[]; evil: number }> {
  const { dns, evil, evilTcp } = await world(null)
  const evilNow = (): number => evil.connections() + evilTcp.connections()
  const before = { packets: packetsOut(), asked: dns.asked.length, evil: evilNow() }
  const value = await run()
  await settle()
  return {
    value,
    packets: packetsOut() - before.packets,
    asked: dns.asked.slice(before.asked),
    evil: evilNow() - before.evil,
  }
}

export const raw = (name: string, send: unknown, more: object = {}): Step => ({
  name,
  op: 'tls',
  host: 'good.test',
  port: 443,
  send,
  wait: 2500,
  patience: 20_000,
  ...more,
})
