/** N and K, the wider set: spellings, protocols and credentials. In a network of its own; the outside keeps count. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { claimAddress, packetsOut } from '../support/lab.ts'
import { once } from '../support/case.ts'
import { clientHello, ECH_GREASE, serverName } from '../support/client-hello.ts'
import { recordDns } from '../support/dns.ts'
import {
  attack,
  connect,
  EVIL,
  FOREIGN_KEY,
  get,
  head,
  KEY,
  PUBLIC,
  raw,
  REAL_KEY,
  RELAY,
  rule,
  sh,
} from '../support/net-stage.ts'
import { describe, Stage, type Step, type Steps } from '../support/stage.ts'
import { type Seen, serveHttps, serveTcp, settle } from '../support/upstream.ts'
import type { As } from '../support/users.ts'

const STRAY = 'stray-secret-of-the-shell-42'

const ALLOWED = ['good.test', 'limited.test', 'key.test', 'a.wild.test', 'xn--bcher-kva.test', 'other.test']

const world = once(async () => {
  for (const address of [PUBLIC, EVIL]) claimAddress(address)
  const dns = await recordDns()
  const good = await serveHttps(ALLOWED, { address: PUBLIC, port: 443 })
  const plain = await serveTcp(
    PUBLIC,
    80,
    'HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nplain',
  )
  const ssh = await serveTcp(PUBLIC, 22, 'SSH-2.0-good\r\n')
  const evil = await serveHttps(['evil.test'], { address: EVIL, port: 443 })
  const local = await serveTcp('127.0.0.1', 443, 'local')
  for (const host of ALLOWED) dns.zone.set(host, [PUBLIC])
  for (const host of ['evil.test', 'notgood.test', 'good.test.evil.test', 'wild.test'])
    dns.zone.set(host, [EVIL])
  return { dns, good, plain, ssh, evil, local }
})

after(() => setTimeout(() => process.exit(), 100).unref())

async function makeStage(as: As): Promise<Stage> {
  const { good, evil } = await world(null)
  const stage = new Stage(as, { files: { 'notes.txt': 'notes' } })
  writeFileSync(join(stage.root, 'ca.pem'), good.ca + evil.ca, { mode: 0o644 })
  return stage
}

const spec = (stage: Stage): Record<string, unknown> => ({
  network: [
    rule(stage, 'good.test'),
    rule(stage, 'other.test', { ports: [443, '80/http'] }),
    rule(stage, '*.wild.test'),
    rule(stage, 'limited.test', { methods: ['GET'], paths: ['/v1/*'] }),
    rule(stage, 'xn--bcher-kva.test'),
    rule(stage, 'key.test', { credential: 'key' }),
  ],
  credentials: [KEY],
  upload: { perRequest: '64KiB', perMinute: '100MiB', perSession: '100MiB' },
})

const request = (name: string, lines: string, more: object = {}): Step =>
  raw(name, head(`${lines}\nconnection: close\n\n`), 'good.test', more)

const SPELLINGS = [
  'good.test\ttab',
  'good.test%00.x',
  'evil%2etest',
  'good.test@evil.test',
  'evil.test#good.test',
  'evil.test\\good.test',
  'good..test',
  '.good.test',
  `${'a'.repeat(64)}.wild.test`,
  `${'a.'.repeat(127)}wild.test`,
  'g\u00f6\u00f6d.test',
  'good.test ',
]
const LOOPBACKS = ['127.1', '0x7f.0.0.1', '2130706433', '017700000001', '0177.0.0.1', '127.0.0.1']
const CONFUSIONS = ['notgood.test', 'good.test.evil.test', 'wild.test', 'good.testevil.test']
const PORTS = [
  'good.test:22',
  'good.test:25',
  'good.test:80',
  'good.test:6379',
  'good.test:0',
  'good.test:65536',
  'good.test:0443',
  'good.test:443:443',
  'good.test',
]
const V6 = [
  '[::1]',
  '[::ffff:127.0.0.1]',
  '[0:0:0:0:0:ffff:7f00:1]',
  '[::1%25lo]',
  '[fe80::1%25lo]',
  '[fd00:ec2::254]',
]
const TRANSLATED = [
  '[64:ff9b::5db8:d822]',
  '[2002:5db8:d822::1]',
  '[2001:0:5db8:d822::1]',
  '[64:ff9b::7f00:1]',
]
const PATHS = [
  '/v1/../v2',
  '/v1/%2e%2e/v2',
  '/v1/..%2fv2',
  '/v1%2f..%2fv2',
  '/v1/..;/v2',
  '/v1/%252e%252e/v2',
  '//v1/x',
  '/V1/x',
  '/v2',
  '/v1/./../v2',
]

const many = (count: number): string =>
  Array.from({ length: count }, (_, index) => `x-h${index}: v`).join('\n')

const isProgram = ({ op }: Step): boolean => op === 'sh' || op === 'exec'
/** Programs one by one, at the end: beside forty connections they would get no turn in time under a slow kernel. */
const inTurn = (batches: readonly Step[][]): (Step | Step[])[] => [
  ...batches.map((steps) => steps.filter((step) => !isProgram(step))),
  ...batches.flat().filter(isProgram),
]

const attempts = (stage: Stage): Step[][] => [
  [
    ...SPELLINGS.map((host) => connect(`spelled ${host}`, `${host}:443`)),
    ...LOOPBACKS.map((host) => connect(`loopback ${host}`, `${host}:443`)),
    ...CONFUSIONS.map((host) => connect(`confused ${host}`, `${host}:443`)),
    ...PORTS.map((target) => connect(`port ${target}`, target)),
    ...[...V6, ...TRANSLATED].map((host) => connect(`v6 ${host}`, `${host}:443`)),
    connect('control', 'good.test:443'),
    connect('wild control', 'a.wild.test:443'),
    { name: 'ssh', op: 'tcp', host: 'good.test', port: 22, wait: 1500 },
  ],
  [
    get('puny', 'https://xn--bcher-kva.test/puny'),
    get('unicode', 'https://b\u00fccher.test/unicode'),
    get('homoglyph', 'https://g\u043e\u043ed.test/homoglyph'),
    ...['good.test', 'evil.test'].map((name) => ({
      name: `ech ${name}`,
      op: 'tcp',
      host: 'good.test',
      port: 443,
      send: clientHello([serverName([name]), ECH_GREASE]).toString('latin1'),
      wait: 1500,
    })),
    sh(
      'old tls',
      'for v in tls1 tls1_1; do echo | timeout 5 openssl s_client -$v -cipher DEFAULT@SECLEVEL=0 -connect good.test:443 -servername good.test 2>&1 | grep -E "Protocol|alert|Cipher is|error" ; done; true',
    ),
    sh(
      'new tls',
      'echo | timeout 5 openssl s_client -connect good.test:443 -servername good.test 2>&1 | grep -E "Cipher is"; true',
    ),
    sh(
      'pinned client',
      'curl -sS -m 5 --pinnedpubkey "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" https://good.test/pinned; echo "code $?"',
    ),
    request('nested', 'CONNECT evil.test:443 HTTP/1.1\nhost: evil.test:443'),
    request('nested same', 'CONNECT good.test:443 HTTP/1.1\nhost: good.test:443'),
    { name: 'relay', op: 'exec', argv: [stage.product.node, '-e', RELAY], timeout: 8000 },
    get('routing', 'https://good.test/routing', {
      headers: {
        'X-Upstream-Https-Proxy': 'http://evil.test:443',
        'Proxy-Connection': 'keep-alive',
        'X-Forwarded-Host': 'evil.test',
        'X-Unix-Socket': '/run/docker.sock',
        Via: '1.1 evil.test',
        Forwarded: 'host=evil.test',
        'Proxy-Authorization': `Basic ${FOREIGN_KEY}`,
      },
    }),
    request('h2c', 'GET /h2c HTTP/1.1\nhost: good.test\nupgrade: h2c\nhttp2-settings: AAMAAABkAAQAAP__'),
    raw('extended', head('CONNECT / HTTP/1.1\nhost: good.test\n:protocol: websocket\n\n')),
    request(
      'masque',
      'GET /.well-known/masque/udp/192.0.2.6/443/ HTTP/1.1\nhost: good.test\nupgrade: connect-udp\ncapsule-protocol: ?1',
    ),
    raw(
      'websocket',
      head(
        'GET /v2/socket HTTP/1.1\nhost: limited.test\nconnection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\n\n',
      ),
      'limited.test',
    ),
    request('headers many', `GET /many HTTP/1.1\nhost: good.test\n${many(400)}`),
    request('headers big', `GET /big HTTP/1.1\nhost: good.test\nx-big: ${'b'.repeat(100_000)}`),
    request('headers fine', `GET /fine HTTP/1.1\nhost: good.test\n${many(40)}`),
    ...['TRACE', 'TRACK', 'FROB'].map((method) =>
      request(`method ${method}`, `${method} /method HTTP/1.1\nhost: key.test`, { host: 'key.test' }),
    ),
    ...['GET', 'HEAD', 'OPTIONS'].map((method) =>
      raw(`body ${method}`, [
        head(`${method} /body HTTP/1.1\nhost: good.test\ncontent-length: 200000\nconnection: close\n\n`),
        'x'.repeat(200_000),
      ]),
    ),
    ...PATHS.map((path) =>
      request(`path ${path}`, `GET ${path} HTTP/1.1\nhost: limited.test`, { host: 'limited.test' }),
    ),
    request('path control', 'GET /v1/x HTTP/1.1\nhost: limited.test', { host: 'limited.test' }),
    request('write method', 'POST /v1/x HTTP/1.1\nhost: limited.test\ncontent-length: 0', {
      host: 'limited.test',
    }),
  ],
  [
    get('plain key', 'http://key.test/plain-key'),
    get('plain other', 'http://other.test/plain-other'),
    sh('dummy elsewhere', 'curl -sS -m 5 -H "x-api-key: $API_KEY" https://other.test/dummy; echo "code $?"'),
    sh('dummy here', 'curl -sS -m 5 -H "x-api-key: $API_KEY" https://key.test/dummy-here'),
    get('foreign', 'https://key.test/foreign', { headers: { authorization: `Bearer ${FOREIGN_KEY}` } }),
    { name: 'env', op: 'env' },
    sh(
      'environs',
      'cat /proc/[0-9]*/environ | tr "\\0" "\\n"; grep -rs "real-key" "$HOME" /tmp /etc /run . ; true',
    ),
  ],
]

interface Scene {
  readonly stage: Stage
  readonly inside: Steps
  readonly arrived: readonly Seen[]
  readonly asked: readonly string[]
  readonly evil: number
  readonly local: number
  readonly ssh: number
  readonly plain: string
  readonly packets: number
}

const STRAYS = {
  AWS_SECRET_ACCESS_KEY: STRAY,
  GITHUB_TOKEN: STRAY,
  NPM_TOKEN: STRAY,
  GIT_ASKPASS: `/bin/${STRAY}`,
}

const scene = once(async (as: As): Promise<Scene> => {
  const { dns, good, plain, ssh, evil, local } = await world(null)
  const stage = await makeStage(as)
  const before = [
    good.requests.length,
    dns.asked.length,
    evil.connections(),
    local.connections(),
    ssh.connections(),
    plain.received.length,
    packetsOut(),
  ] as const
  const inside = await stage.inside(inTurn(attempts(stage)), {
    spec: spec(stage),
    env: { REAL_KEY, ...STRAYS },
  })
  await settle()
  return {
    stage,
    inside,
    arrived: good.requests.slice(before[0]),
    asked: dns.asked.slice(before[1]),
    evil: evil.connections() - before[2],
    local: local.connections() - before[3],
    ssh: ssh.connections() - before[4],
    plain: Buffer.concat(plain.received.slice(before[5])).toString('latin1'),
    packets: packetsOut() - before[6],
  }
})

const received = ({ inside }: Scene, name: string): string => inside.result(name).value?.received ?? ''
const reached = ({ arrived }: Scene, path: string): Seen | undefined =>
  arrived.find(({ url }) => url.includes(path))

/** Asserts that none of these CONNECTs stands while an ordinary one does; nothing was dialled or asked. */
function noTunnel(seen: Scene, kind: string, targets: readonly string[]): string {
  assert.match(received(seen, 'control'), /^HTTP\/1\.1 200/, 'control: a granted name stands')
  const first = targets.map((target) => {
    const got = received(seen, `${kind} ${target}`)
    assert.match(got, /^(HTTP\/1\.1 [45]\d\d |$)/, `${target}: ${got.slice(0, 80)}`)
    return got.slice(9, 12)
  })
  assert.equal(seen.evil, 0, 'the other host was dialled')
  assert.equal(seen.local, 0, 'loopback was dialled')
  assert.equal(seen.packets, 0, 'packets left')
  assert.deepEqual(
    seen.asked.filter((name) => !ALLOWED.includes(name)),
    [],
    'a name was looked up',
  )
  return `${targets.length} refused: ${[...new Set(first)].map((one) => one || 'closed').join(' ')}`
}

attack('N-05', 'bounds what leaves in the labels of a wildcard', async (as) => {
  const { dns, good } = await world(null)
  const stage = await makeStage(as)
  const labels = Array.from({ length: 300 }, (_, index) => `n${index}`)
  const random = '7f3k9x2mq8zv1b5n0c4wd6hsjt'
  const tries = [...labels, random, 'x'.repeat(60)].map((label) => connect(label, `${label}.wild.test:443`))
  const before = [good.connections(), dns.asked.length] as const
  const inside = await stage.inside([connect('control', 'a.wild.test:443'), tries.slice(-2), tries], {
    spec: spec(stage),
  })
  await settle()
  const passed = labels.filter((label) =>
    (inside.result(label).value?.received ?? '').startsWith('HTTP/1.1 200'),
  )
  assert.match(inside.result('control').value.received, /^HTTP\/1\.1 200/, 'control')
  assert.ok(passed.length > 0 && passed.length <= 128, `${passed.length} of ${labels.length} new names stand`)
  for (const label of [random, 'x'.repeat(60)]) {
    assert.doesNotMatch(inside.result(label).value.received, /^HTTP\/1\.1 200/, label)
    assert.ok(!dns.asked.slice(before[1]).some((name) => name.startsWith(label)), `${label} was looked up`)
  }
  return `${passed.length} of ${labels.length} names, no random label`
})

attack('N-07', 'refuses odd spellings of a host', async (as) =>
  noTunnel(await scene(as), 'spelled', SPELLINGS),
)

attack('N-09', 'refuses loopback in every notation', async (as) =>
  noTunnel(await scene(as), 'loopback', LOOPBACKS),
)

attack('N-10', 'takes no name for another by its beginning or end', async (as) => {
  const seen = await scene(as)
  assert.match(received(seen, 'wild control'), /^HTTP\/1\.1 200/, 'control: a strict subdomain stands')
  return noTunnel(seen, 'confused', CONFUSIONS)
})

/** Profiles with these hosts are refused by `check` and by `run`. */
async function refusedHosts(as: As, hosts: readonly string[]): Promise<string> {
  const stage = await makeStage(as)
  for (const host of hosts) {
    const check = await stage.ambit(['profile', 'check', stage.profile({ network: [rule(stage, host)] })])
    assert.notEqual(check.code, 0, `accepted host ${host}\n${describe(check)}`)
  }
  const run = await stage.session(['/bin/echo', 'it-ran'], {
    spec: { network: [rule(stage, hosts[0] ?? '')] },
  })
  assert.doesNotMatch(run.stdout, /it-ran/, 'ran under a broken profile')
  const fine = await stage.ambit([
    'profile',
    'check',
    stage.profile({ network: [rule(stage, '*.good.test')] }),
  ])
  assert.equal(fine.code, 0, `control: ${describe(fine)}`)
  return `${hosts.length} refused at load`
}

attack('N-11', 'refuses ports written into a host', async (as) =>
  refusedHosts(as, [
    'good.test:0',
    'good.test:65536',
    'good.test:0443',
    'good.test:443.allowed.test',
    'good.test:1:2',
  ]),
)

attack('N-12', 'grants no other port of a granted host', async (as) => {
  const seen = await scene(as)
  assert.equal(seen.ssh, 0, 'port 22 was dialled')
  assert.doesNotMatch(received(seen, 'ssh'), /SSH/)
  return noTunnel(seen, 'port', PORTS)
})

attack('N-13', 'decides a name and its punycode alike, and no look-alike', async (as) => {
  const seen = await scene(as)
  for (const name of ['puny', 'unicode'])
    assert.equal(seen.inside.result(name).value?.status, 200, `control: ${name}`)
  const twin = seen.inside.result('homoglyph')
  assert.ok(!twin.ok || twin.value.status === 403)
  await refusedHosts(as, ['g\u043e\u043ed.test'])
  return 'same decision; look-alike refused; profile wants punycode'
})

attack('N-14', 'refuses wildcards that mean too much', async (as) =>
  refusedHosts(as, ['*', '*.', '*.*.good.test', 'login.*.good.test', '**.good.test', 'a*.good.test']),
)

attack('N-15', 'refuses every form of an internal IPv6 address', async (as) =>
  noTunnel(await scene(as), 'v6', V6),
)

attack('N-16', 'refuses IPv6 addresses that carry an IPv4 one', async (as) =>
  noTunnel(await scene(as), 'v6', TRANSLATED),
)

attack('N-22', 'passes nothing on that it cannot read', async (as) => {
  const seen = await scene(as)
  assert.match(seen.inside.result('new tls').value.stdout, /Cipher is TLS/, 'control: TLS 1.3 is terminated')
  assert.doesNotMatch(seen.inside.result('old tls').value.stdout, /Cipher is [A-Z]+-/, 'TLS 1.0 was spoken')
  assert.match(
    seen.inside.result('pinned client').value.stdout,
    /code (90|35|60)/,
    'a pinning client sees another key',
  )
  assert.ok(!reached(seen, '/pinned'), 'the pinned request went upstream')
  const refusals = (await seen.stage.events(seen.inside.summary.session))
    .filter(({ ambit }) => ambit.kind === 'net.denied')
    .map(({ ambit }) => ambit.reason)
  const refused = (reason: string): number => refusals.filter((one) => one === reason).length
  assert.equal(refused('tls.unreadable-hello'), 0, 'control: a hello with ECH is read')
  assert.equal(refused('tls.name-mismatch'), 1, `its outer name decides: ${refusals.join(' ')}`)
  // Nobody here could read a hello that is meant for another: the answer is the gate's, and no application data.
  for (const name of ['good.test', 'evil.test'])
    assert.ok(['\x15', '\x16'].includes(received(seen, `ech ${name}`)[0] ?? ''), `the gate answers ${name}`)
  assert.equal(seen.evil, 0)
  return 'ECH, TLS 1.0 and a pinning client get no way past'
})

attack('N-24', 'decides a nested or relayed CONNECT as any other', async (as) => {
  const seen = await scene(as)
  for (const name of ['nested', 'nested same'])
    assert.match(received(seen, name), /^(HTTP\/1\.1 [45]|$)/, name)
  const said = seen.inside.result('relay').value.stdout as string
  assert.match(said, /good\.test 200/, `control: the relay works: ${said}`)
  assert.match(said, /evil\.test 403/)
  assert.equal(seen.evil, 0)
  return `nested ${received(seen, 'nested').slice(9, 12) || 'closed'}, relayed 403`
})

attack('N-25', 'takes no route from a header', async (as) => {
  const seen = await scene(as)
  const got = reached(seen, '/routing')
  const status = seen.inside.result('routing').value?.status
  if (got)
    for (const name of [
      'x-upstream-https-proxy',
      'proxy-connection',
      'x-forwarded-host',
      'x-unix-socket',
      'via',
      'forwarded',
      'proxy-authorization',
    ])
      assert.equal(got.headers[name], undefined, `${name} was forwarded`)
  else assert.ok(status >= 400, 'neither forwarded nor refused')
  assert.equal(seen.evil, 0)
  return got ? 'stripped' : `${status}`
})

attack('N-27', 'changes to no other protocol unless a rule admits it', async (as) => {
  const seen = await scene(as)
  const h2c = reached(seen, '/h2c')
  assert.equal(h2c?.headers.upgrade, undefined)
  for (const name of ['h2c', 'extended', 'masque', 'websocket'])
    assert.doesNotMatch(received(seen, name), /^HTTP\/1\.1 101/, name)
  assert.match(received(seen, 'websocket'), /^HTTP\/1\.1 403/, 'decided by path like a GET')
  assert.match(received(seen, 'extended'), /^(HTTP\/1\.1 [45]|$)/)
  assert.match(received(seen, 'headers fine'), /^HTTP\/1\.1 200/, 'control')
  return 'no 101'
})

attack('N-29', 'refuses heads beyond its limits', async (as) => {
  const seen = await scene(as)
  assert.match(received(seen, 'headers fine'), /^HTTP\/1\.1 200/, 'control: 40 fields pass')
  for (const name of ['headers many', 'headers big'])
    assert.match(received(seen, name), /^(HTTP\/1\.1 4\d\d|$)/, name)
  for (const path of ['/many', '/big']) assert.ok(!reached(seen, path), `${path} went upstream`)
  return `${received(seen, 'headers many').slice(9, 12)} and ${received(seen, 'headers big').slice(9, 12)}`
})

attack('N-30', 'forwards no TRACE and no unknown method where a credential is set', async (as) => {
  const seen = await scene(as)
  const statuses = ['TRACE', 'TRACK', 'FROB'].map((method) => received(seen, `method ${method}`).slice(9, 12))
  for (const status of statuses.slice(0, 2)) assert.match(status, /^(4\d\d|501|)$/)
  assert.ok(!seen.arrived.some(({ method }) => /^TRAC|FROB/.test(method)), 'it went upstream')
  assert.ok(reached(seen, '/dummy-here'), 'control: a GET does go there')
  return statuses.join(' ')
})

attack('N-31', 'counts and bounds the body of a method that has none', async (as) => {
  const seen = await scene(as)
  for (const method of ['GET', 'HEAD', 'OPTIONS'])
    assert.match(received(seen, `body ${method}`), /^HTTP\/1\.1 4/, method)
  const whole = seen.arrived.filter(({ url, bytes }) => url === '/body' && bytes >= 200_000)
  assert.deepEqual(whole, [], 'a body went up whole')
  return `${received(seen, 'body GET').slice(9, 12)} above the budget`
})

attack('N-32', 'limits paths as spelled and refuses unusual spellings', async (as) => {
  const seen = await scene(as)
  assert.match(received(seen, 'path control'), /^HTTP\/1\.1 200/, 'control')
  for (const path of PATHS) assert.match(received(seen, `path ${path}`), /^HTTP\/1\.1 4/, path)
  const got = seen.arrived.filter(({ servername }) => servername === 'limited.test').map(({ url }) => url)
  assert.deepEqual(got, ['/v1/x'])
  return `${PATHS.length} spellings refused`
})

attack('N-33', 'sends no credential over plain HTTP', async (as) => {
  const seen = await scene(as)
  assert.ok(!seen.plain.includes(REAL_KEY), 'the key went out unencrypted')
  assert.notEqual(seen.inside.result('plain key').value?.status, 200)
  assert.equal(
    seen.inside.result('plain other').value?.status,
    200,
    'control: plain HTTP works where it is granted',
  )
  const { stage } = seen
  const network = [rule(stage, 'key.test', { ports: ['80/http'], credential: 'key' })]
  const before = (await world(null)).plain.received.length
  const ran = await stage
    .inside([get('plain', 'http://key.test/')], { spec: { network, credentials: [KEY] }, env: { REAL_KEY } })
    .catch((error: Error) => error)
  const sent = Buffer.concat((await world(null)).plain.received.slice(before)).toString('latin1')
  assert.ok(!sent.includes(REAL_KEY), 'a rule for plain HTTP carries the key')
  return ran instanceof Error
    ? 'no grant, and such a rule is refused at load'
    : `no grant, and such a rule ${ran.code}`
})

attack('N-34', 'refuses a method that the rule does not name', async (as) => {
  const seen = await scene(as)
  assert.match(received(seen, 'write method'), /^HTTP\/1\.1 403/)
  assert.match(received(seen, 'path control'), /^HTTP\/1\.1 200/, 'control: the GET passes')
  assert.ok(
    !seen.arrived.some(({ method, servername }) => method === 'POST' && servername === 'limited.test'),
  )
  return '403, none upstream'
})

attack('N-37', 'knows no profile without a sandbox', async (as) => {
  const stage = await makeStage(as)
  for (const isolation of [
    { runtime: 'none' },
    { runtime: null },
    { enabled: false },
    { runtime: 'os-sandbox', sandbox: false },
  ]) {
    const check = await stage.ambit(['profile', 'check', stage.profile({ isolation })])
    assert.notEqual(check.code, 0, JSON.stringify(isolation))
    const ran = await stage.session(['/bin/echo', 'it-ran'], { spec: { isolation } })
    assert.doesNotMatch(ran.stdout, /it-ran/)
    assert.match(ran.stderr, /isolation/, 'it says why')
  }
  const fine = await stage.session(['/bin/echo', 'it-ran'])
  assert.match(fine.stdout, /it-ran/, `control\n${describe(fine)}`)
  return '4 ways to switch it off are errors'
})

attack('K-01', 'shows the agent placeholders only', async (as) => {
  const seen = await scene(as)
  const { value } = seen.inside.result('env')
  assert.ok(value.API_KEY, 'control: a placeholder is there')
  for (const text of [JSON.stringify(value), seen.inside.result('environs').value.stdout])
    assert.ok(!text.includes(REAL_KEY), 'the key can be read inside')
  assert.match(seen.inside.result('environs').value.stdout, /API_KEY=/, 'control: environments were read')
  assert.equal(
    reached(seen, '/dummy-here')?.headers['x-api-key'],
    REAL_KEY,
    'control: the gate sets the real one',
  )
  return 'no key in environments or files'
})

attack('K-02', 'never fills a placeholder in for another host', async (as) => {
  const seen = await scene(as)
  const got = reached(seen, '/dummy')
  const elsewhere = seen.arrived.find(({ url }) => url === '/dummy')
  assert.ok(!JSON.stringify([elsewhere?.rawHeaders, elsewhere?.body]).includes(REAL_KEY))
  assert.ok(got, 'control: requests with a placeholder arrive somewhere')
  return elsewhere ? 'went out as it is' : 'refused'
})

attack('K-06', 'lets no foreign Authorization pass on a brokered host', async (as) => {
  const seen = await scene(as)
  assert.ok(!JSON.stringify(seen.arrived.map(({ rawHeaders }) => rawHeaders)).includes(FOREIGN_KEY))
  assert.ok(reached(seen, '/dummy-here'), 'control: the host is reached')
  const got = reached(seen, '/foreign')
  return got ? 'removed' : `${seen.inside.result('foreign').value?.status}`
})

attack('K-08', 'leaves no credential in any artefact', async (as) => {
  const { stage, inside } = await scene(as)
  const written = [stage.ambitHome, stage.outside, stage.home].flatMap(filesBelow)
  const holding = written.filter((path) => readFileSync(path).includes(REAL_KEY))
  assert.deepEqual(holding, [])
  assert.ok(
    written.some((path) => readFileSync(path).includes('key.test')),
    'control: the search finds what is there',
  )
  const why = await stage.ambit(['why', inside.summary.session])
  const events = JSON.stringify(await stage.events(inside.summary.session))
  for (const text of [inside.stdout, inside.stderr, why.stdout, why.stderr, events])
    assert.ok(!text.includes(REAL_KEY))
  return `${written.length} files searched`
})

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return filesBelow(path)
    return entry.isFile() && statSync(path).size < 1 << 26 ? [path] : []
  })
}

attack('K-10', 'passes no variable that the profile does not name', async (as) => {
  const { stage, inside } = await scene(as)
  assert.ok(!JSON.stringify(inside.result('env').value).includes(STRAY))
  assert.ok(!inside.result('environs').value.stdout.includes(STRAY))
  const env = { ...STRAYS, PLAIN_SETTING: 'passed' }
  const named = await stage.inside([{ name: 'env', op: 'env' }], {
    spec: { environment: { pass: ['PLAIN_SETTING'] } },
    env,
  })
  assert.equal(named.result('env').value.PLAIN_SETTING, 'passed', 'control: a named one is passed')
  assert.ok(!JSON.stringify(named.result('env').value).includes(STRAY))
  const token = await stage.ambit([
    'profile',
    'check',
    stage.profile({ environment: { pass: ['GITHUB_TOKEN'] } }),
  ])
  assert.notEqual(token.code, 0, 'a token cannot be passed by name either')
  return `${Object.keys(STRAYS).length} variables cleared`
})

attack('K-11', 'starts with no credential of impossible form', async (as) => {
  const stage = await makeStage(as)
  const network = [rule(stage, 'key.test', { credential: 'key' })]
  const use = get('use', 'https://key.test/k11')
  const { good } = await world(null)
  const outcomes: string[] = []
  for (const value of ['', ' ', 'a b\nc', 'a\r\nx-other: 1', 'k\u0001', 'x'.repeat(100_000)]) {
    const before = good.requests.length
    const curl = 'curl -sS -m 5 -o /dev/null -w "%{http_code}" https://key.test/k11'
    const ran = await stage.session(['/bin/sh', '-c', curl], {
      spec: { network, credentials: [KEY] },
      env: { REAL_KEY: value },
    })
    assert.equal(good.requests.length, before, `a request left with ${JSON.stringify(value).slice(0, 40)}`)
    assert.doesNotMatch(ran.stdout, /^200/)
    outcomes.push(ran.stdout.trim() || `exit ${ran.code}`)
  }
  const fine = await stage.inside([use], { spec: { network, credentials: [KEY] }, env: { REAL_KEY } })
  assert.equal(fine.result('use').value?.status, 200, `control\n${describe(fine)}`)
  return `6 values: ${[...new Set(outcomes)].join(', ')}`
})
