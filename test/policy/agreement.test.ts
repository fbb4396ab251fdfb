/**
 * One truth about hosts and requests: an oracle written from the profile's description, the compiled plan, what
 * `ambit explain` shows, the runtime policy in Rego and a running gate all say the same about random requests.
 */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { connect as connectTcp, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { type Random, xorshift } from '../../fuzz/fuzz.ts'
import { isAddress, matchesHost, parseHost } from '../../src/lib/host.ts'
import { native } from '../../src/lib/native.ts'
import { matchesPath } from '../../src/lib/url-path.ts'
import { decideAdmission } from '../../src/policy/admission.ts'
import { decide } from '../../src/policy/decide.ts'
import { openRuntimePolicy } from '../../src/policy/runtime.ts'
import { LABELS, type Label, type Plan, RUNTIMES, type RuntimeName } from '../../src/profile/plan.ts'
import { isolationOf } from '../../src/session/isolation.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { type Bench, startBench, testCa } from '../gate/harness.ts'
import { header, World } from '../profile/support.ts'
import { Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

/** Repeatable: a failure names it. */
const SEED = Number(process.env.AMBIT_TEST_SEED ?? Date.now() % 2 ** 31)
const pickOf =
  (random: Random) =>
  <T>(list: readonly T[]): T =>
    list[random(list.length)] as T

const VECTORS = JSON.parse(
  readFileSync(join(import.meta.dirname, '../fixtures/host-vectors.json'), 'utf8'),
) as {
  canonical: [string, string][]
}

const PIECES = [
  'a',
  'B',
  'api',
  'xn--bcher-kva',
  'xn--a',
  '0x7f',
  '127',
  '1',
  '255',
  '256',
  '-',
  '_',
  'é',
  '\u212a',
  '٣',
  '。',
  '%2e',
  'test',
  'com',
  '::1',
  '[',
  ']',
  ':',
  '@',
  ' ',
  '\0',
  '',
]

function randomHost(random: Random): string {
  const pick = pickOf(random)
  const parts = Array.from({ length: 1 + random(5) }, () => pick(PIECES))
  return parts.join(random(4) === 0 ? '' : '.') + (random(6) === 0 ? '.' : '')
}

const bracketed = (host: string): string => (host.includes(':') ? `[${host}]` : host)

test('a host has one reading: here, in the URL parser of clients, and in the certificates that Rust issues', () => {
  const random = xorshift(SEED)
  const now = Math.floor(Date.now() / 1000)
  const ca = native().createCa('agreement', now - 60, now + 600)
  const issued: string[] = []
  const texts = [
    ...VECTORS.canonical.map(([text]) => text),
    ...Array.from({ length: 3000 }, () => randomHost(random)),
  ]
  for (const text of texts) {
    const host = parseHost(text)
    if (host === null) continue
    const bare = text.startsWith('[') ? text : bracketed(text)
    // The root dot is kept by URLs, and means the same name.
    const url = URL.parse(`https://${bare}/`)?.hostname.replace(/\.$/, '')
    assert.equal(url, bracketed(host), `seed ${SEED}: ${JSON.stringify(text)}`)
    if (issued.length < 150 && !issued.includes(host)) issued.push(host)
  }
  assert.ok(issued.length > 40, 'control: many are hosts')
  for (const [index, host] of issued.entries()) {
    const leaf = new X509Certificate(native().createLeaf(ca, host, now - 60, now + 600).cert)
    const names = (one: string): boolean =>
      (isAddress(one) ? leaf.checkIP(one) : leaf.checkHost(one)) !== undefined
    assert.ok(names(host), `seed ${SEED}: the certificate of ${host} does not name it`)
    const other = issued[(index + 1) % issued.length] ?? ''
    assert.ok(!names(other), `seed ${SEED}: the certificate of ${host} names ${other}`)
    assert.ok(!names(isAddress(host) ? '9.9.9.9' : `sub.${host}`))
  }
})

/** `*.a.b` is every name of more labels that ends in the labels `a`, `b`. */
function oracleHost(pattern: string, host: string): boolean {
  if (!pattern.startsWith('*.')) return pattern === host
  const [want, have] = [pattern.slice(2).split('.'), host.split('.')]
  return (
    !isAddress(host) &&
    have.length > want.length &&
    want.every((label, at) => have[have.length - want.length + at] === label)
  )
}

/** `*` within a segment, at the end any rest. */
const oraclePath = (glob: string, path: string): boolean =>
  new RegExp(
    `^${glob
      .replace(/[.+?^${}()|[\]\\]/g, '\\$&')
      .replace(/\*+$/, '\0')
      .replaceAll('*', '[^/]*')
      .replace('\0', '.*')}$`,
    's',
  ).test(path)

test('host and path patterns match what their description says', () => {
  const random = xorshift(SEED)
  const pick = pickOf(random)
  const hosts = [
    'a.test',
    'b.a.test',
    'c.b.a.test',
    'xa.test',
    'test',
    'a.test.x',
    '1.2.3.4',
    '::1',
    'ba.test',
  ]
  for (const pattern of ['*.a.test', '*.b.a.test', 'a.test', '1.2.3.4', '*.3.4'])
    for (const host of hosts)
      assert.equal(matchesHost(pattern, host), oracleHost(pattern, host), `${pattern} ${host}`)
  const text = (alphabet: string): string =>
    `/${Array.from({ length: random(9) }, () => pick(alphabet.split(''))).join('')}`
  for (let round = 0; round < 20_000; round++) {
    const [glob, path] = [text('ab/*'), text('aab/')]
    if (glob.replace(/\*+$/, '').includes('**')) continue
    assert.equal(matchesPath(glob, path), oraclePath(glob, path), `seed ${SEED}: ${glob} ${path}`)
  }
})

interface Entry {
  readonly host: string
  readonly ports: readonly number[]
  readonly methods?: readonly string[]
  readonly paths?: readonly string[]
  readonly clearance?: Label
}

interface Ask {
  readonly host: string
  readonly port: number
  readonly method: string
  readonly path: string
  readonly label: Label
}

const HOSTS = ['a.test', 'b.a.test', 'c.b.a.test', 'd.test', 'xd.test', 'evil.test', 'A.Test', 'd.test.']

function randomEntries(random: Random): Entry[] {
  const pick = pickOf(random)
  const maybe = <K extends string, V>(key: K, value: V) =>
    random(2) === 0 ? ({ [key]: value } as { [P in K]: V }) : {}
  // No two of these overlap.
  return ['a.test', '*.a.test', 'd.test']
    .filter(() => random(4) !== 0)
    .map((host) => ({
      host,
      ports: pick([[443], [443, 8443], [8443], []]),
      ...maybe('methods', pick([['GET'], ['GET', 'POST'], ['POST', 'PROPFIND'], []])),
      ...maybe('paths', pick([['/v1/*'], ['/v1/*/x', '/v2'], ['/'], []])),
      ...maybe('clearance', pick(LABELS)),
    }))
}

function randomAsk(random: Random): Ask {
  const pick = pickOf(random)
  const method = pick(['GET', 'GET', 'POST', 'DELETE', 'PROPFIND', 'TRACE', 'FROB'])
  const path = pick([
    '/',
    '/v1/a',
    '/v1/a/x',
    '/v2',
    '/v1/a/x',
    '/v1/',
    '/v2',
    '/v2?q=/v1/',
    '/V1/a',
    '/v1/../v2',
    '/v1/%61',
  ])
  const label = pick([...LABELS, 'public', 'public', 'internal'] as const)
  return { host: pick(HOSTS), port: pick([443, 443, 8443]), method, path, label }
}

const COMMON = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']

/** From docs/profiles.md alone. */
function oracle(entries: readonly Entry[], ask: Ask): boolean {
  const host = ask.host.toLowerCase().replace(/\.$/, '')
  const [path = ''] = ask.path.split('?')
  return entries.some((entry) => {
    const method = entry.methods?.includes(ask.method) ?? COMMON.includes(ask.method)
    const odd = path.includes('..') || path.includes('%')
    const paths = entry.paths === undefined || (!odd && entry.paths.some((glob) => oraclePath(glob, path)))
    const cleared = LABELS.indexOf(ask.label) <= LABELS.indexOf(entry.clearance ?? 'internal')
    return oracleHost(entry.host, host) && entry.ports.includes(ask.port) && method && paths && cleared
  })
}

const upstream = await startUpstream({ tls: testCa.issue(['a.test', 'b.a.test', 'c.b.a.test', 'd.test']) })
const world = new World()
after(async () => {
  await upstream.close()
  world[Symbol.dispose]()
})
world.write('ca.pem', testCa.cert)

function documentOf(entries: readonly Entry[]): string {
  const network = entries.map((entry) => ({
    ...entry,
    connect: `127.0.0.1:${upstream.port}`,
    ca: join(world.dir, 'ca.pem'),
  }))
  return `spec: ${JSON.stringify({ files: [{ path: '${project}', access: 'read' }], network })}\n`
}

function decided(plan: Plan, ask: Ask): boolean {
  const host = parseHost(ask.host)
  if (host === null) return false
  const { port, method, path, label } = ask
  const state = { label, stopped: null }
  return decide({ kind: 'http.request', host, port, tls: true, method, path }, plan, state).effect === 'allow'
}

test('the compiled plan decides as the profile reads', () => {
  const random = xorshift(SEED)
  let allowed = 0
  for (let round = 0; round < 60; round++) {
    const entries = randomEntries(random)
    const plan = world.compile(world.profile('probe', documentOf(entries)))
    for (let turn = 0; turn < 150; turn++) {
      const ask = randomAsk(random)
      const yes = decided(plan, ask)
      assert.equal(yes, oracle(entries, ask), `seed ${SEED}: ${JSON.stringify({ entries, ask })}`)
      if (yes) allowed++
    }
  }
  assert.ok(allowed > 100, `control: ${allowed} were allowed`)
})

test('the gate and the runtime policy decide as the plan does', async () => {
  const random = xorshift(SEED)
  let allowed = 0
  // One rule that is wide enough for the comparison to have two sides.
  const wide: Entry = { host: 'a.test', ports: [443], clearance: 'confidential' }
  for (let round = 0; round < 3 || (allowed <= 5 && round < 12); round++) {
    const entries = [wide, ...randomEntries(random).filter(({ host }) => host !== wide.host)]
    const plan = world.compile(world.profile('probe', documentOf(entries)))
    const bench = await startBench(plan, { policy: openRuntimePolicy(plan, world.paths) })
    let untrusted = false
    const used = new Set<string>()
    for (let turn = 0; turn < 50; turn++) {
      const ask = randomAsk(random)
      const host = parseHost(ask.host) ?? ''
      const asks: boolean =
        LABELS.indexOf(ask.label) >= LABELS.indexOf('confidential') && untrusted && !used.has(host)
      const expected: boolean = oracle(entries, ask) && !asks
      const before = upstream.requests.length
      const status = await gateStatus(bench, ask)
      const what = `seed ${SEED}: ${JSON.stringify({ entries, ask, status })}`
      assert.equal(status === 200, expected, what)
      assert.equal(upstream.requests.length - before, expected ? 1 : 0, what)
      if (!expected) continue
      untrusted = true
      used.add(host)
      allowed++
    }
    await bench.close()
  }
  assert.ok(allowed > 5, `control: ${allowed} were allowed`)
})

async function gateStatus(bench: Bench, { host, port, method, path, label }: Ask): Promise<number> {
  bench.state.label = label
  const { addresses } = await bench.lookup(host.replace(/\.$/, ''))
  bench.aim(addresses[0] ?? '', port)
  const authority = port === 443 ? host : `${host}:${port}`
  const length = method === 'POST' || method === 'PROPFIND' ? 'Content-Length: 0\r\n' : ''
  const servername = host.replace(/\.$/, '')
  const tcp = connectTcp({ host: '127.0.0.1', port: bench.ports.tcp })
  const socket: Socket = connectTls({
    socket: tcp,
    servername,
    ca: bench.gate.caPem,
    checkServerIdentity: () => undefined,
  })
  return await new Promise<number>((resolve) => {
    const done = (status: number): void => {
      socket.destroy()
      resolve(status)
    }
    socket.on('error', () => done(0))
    socket.on('close', () => done(0))
    socket.once('secureConnect', () =>
      socket.write(`${method} ${path} HTTP/1.1\r\nHost: ${authority}\r\n${length}\r\n`),
    )
    socket.once('data', (bytes: Buffer) =>
      done(Number(/^HTTP\/1\.1 (\d+)/.exec(bytes.toString('latin1'))?.[1] ?? 0)),
    )
  })
}

test('what `ambit explain` shows is the plan that decides', {
  skip: unavailable('user') ?? false,
}, async () => {
  const random = xorshift(SEED)
  const stage = new Stage('user')
  for (let round = 0; round < 3; round++) {
    const entries = randomEntries(random)
    const file = join(stage.root, 'probe.yaml')
    // The authority of the tests is beside the point here, and not readable for the stage's user.
    writeFileSync(file, header('probe') + documentOf(entries).replaceAll(/"ca":"[^"]*"/g, '"inspect":true'), {
      mode: 0o644,
    })
    const ran = await stage.ambit(['explain', '--json', '--profile', file, '--project', stage.project])
    assert.equal(ran.code, 0, ran.stderr)
    const { plan } = JSON.parse(ran.stdout) as { plan: Plan }
    for (let turn = 0; turn < 200; turn++) {
      const ask = randomAsk(random)
      assert.equal(
        decided(plan, ask),
        oracle(entries, ask),
        `seed ${SEED}: ${JSON.stringify({ entries, ask })}`,
      )
    }
  }
})

interface Setting {
  readonly label: Label
  readonly profile: RuntimeName
  readonly asked: RuntimeName | null
  readonly digest: string | null
  readonly config: {
    readonly known_agents?: readonly string[]
    readonly agents?: readonly string[]
    readonly high_risk_users?: readonly string[]
    readonly runtimes?: Readonly<Partial<Record<Label, RuntimeName>>>
  }
}

function randomSetting(random: Random): Setting {
  const pick = pickOf(random)
  const maybe = <K extends string, V>(key: K, value: V) =>
    random(2) === 0 ? ({ [key]: value } as { [P in K]: V }) : {}
  return {
    label: pick(LABELS),
    profile: pick(['os-sandbox', 'os-sandbox', ...RUNTIMES]),
    asked: pick([null, null, ...RUNTIMES]),
    digest: pick(['aa', 'bb', null]),
    config: {
      ...maybe('known_agents', pick([['aa'], ['bb', 'cc'], []])),
      ...(random(4) === 0 ? { agents: ['aa', 'bb'] } : {}),
      ...(random(4) === 0 ? { high_risk_users: pick([['alice'], ['bob'], []]) } : {}),
      ...maybe('runtimes', { [pick(LABELS)]: pick(RUNTIMES), [pick(LABELS)]: pick(RUNTIMES) }),
    },
  }
}

/** From docs/operations.md alone. Null: no session. */
function oracleRuntime({ label, profile, asked, digest, config }: Setting): RuntimeName | null {
  const { agents, known_agents: known, high_risk_users: risky } = config
  if (agents && (digest === null || !agents.includes(digest))) return null
  const wanted: RuntimeName[] = [profile]
  if (asked) wanted.push(asked)
  if (label === 'regulated' || risky?.includes('alice')) wanted.push('microvm')
  const listed = [...(agents ?? []), ...(known ?? [])]
  if ((agents || known) && (digest === null || !listed.includes(digest))) wanted.push('container')
  for (const from of LABELS) {
    const least = config.runtimes?.[from]
    if (least && LABELS.indexOf(from) <= LABELS.indexOf(label)) wanted.push(least)
  }
  return RUNTIMES.findLast((name) => wanted.includes(name)) ?? null
}

test('the runtime is the strongest that profile, policy and command line ask for', () => {
  const random = xorshift(SEED)
  const seen = new Set<string>()
  for (let round = 0; round < 150; round++) {
    const setting = randomSetting(random)
    const { label, profile, asked, digest, config } = setting
    world.write('ambit/config/policies/data.json', JSON.stringify({ ambit: { config } }))
    const plan = world.plan(
      `  isolation: { runtime: ${profile} }\n  files: [{ path: "\${project}", access: read, label: ${label} }]\n`,
    )
    const admission = decideAdmission(
      {
        user: { name: 'alice', uid: 1000 },
        device: { hostname: 'h', os: 'linux' },
        agent: { name: 'codex', version: null, digest, path: '/opt/codex' },
        plan,
        accepted: true,
      },
      world.paths,
    )
    const got = isolationOf(profile, admission, asked)
    const what = `seed ${SEED}: ${JSON.stringify({ setting, admission, got })}`
    const expected = oracleRuntime(setting)
    assert.equal(admission.effect === 'allow' ? got.runtime : null, expected, what)
    if (expected === null) continue
    assert.equal(got.raised.length > 0, got.runtime !== profile, what)
    if (got.raised.some((reason) => reason !== '--runtime')) seen.add(got.runtime)
  }
  world.write('ambit/config/policies/data.json', '{}')
  assert.deepEqual(seen, new Set(['container', 'microvm']), 'control: policy raised to both')
})

test('an approval holds for the very host that it names', () => {
  const plan = world.compile(
    world.profile('probe', documentOf([{ host: '*.a.test', ports: [443], clearance: 'confidential' }])),
  )
  const policy = openRuntimePolicy(plan, world.paths)
  const random = xorshift(SEED)
  const hosts = [
    ...new Set(
      Array.from({ length: 400 }, () => parseHost(randomHost(random))).filter((host) => host !== null),
    ),
  ]
  for (const [index, host] of hosts.entries())
    for (const named of [host, hosts[(index + 1) % hosts.length] ?? '', `x.${host}`, host.slice(1)]) {
      const { effect } = policy({
        action: { kind: 'http.request', host, port: 443, tls: true },
        rule: plan.network[0] ?? null,
        state: { label: 'confidential', stopped: null },
        session: { untrusted: true, newDestination: true, approvals: [`destination:${named}`] },
      })
      assert.equal(effect === 'allow', named === host, `seed ${SEED}: ${host} by ${named}`)
    }
})
