/** What developers do over the network, inside: packages, builds, git, gRPC, WebSockets, event streams. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { createServer } from 'node:tls'
import { grpcPackage } from './grpc-package.ts'
import { install } from '../support/caches.ts'
import { claimAddress, labMissing } from '../support/lab.ts'
import { native } from '../../src/lib/native.ts'
import { acceptWebSocket } from '../fixtures/servers/websocket.ts'
import { once } from '../support/case.ts'
import { recordDns } from '../support/dns.ts'
import { withoutPrograms } from '../support/programs.ts'
import { describe, type SessionRan, Stage } from '../support/stage.ts'
import { type Answer, serveHttps, type Upgrade } from '../support/upstream.ts'
import { type As, unavailable } from '../support/users.ts'
import { makeBare, serveGit } from './git-server.ts'
import { type Pages, registries } from './registries.ts'

const WEB = '93.184.216.34'
const GRPC = '93.184.216.35'
const DATABASE = '93.184.216.36'
/** The packages that are served are made with Python, the repository with git. */
const cannot = labMissing ?? withoutPrograms('python3', 'git')
const scratch = mkdtempSync(join(tmpdir(), 'ambit-life-'))
after(() => {
  rmSync(scratch, { recursive: true, force: true })
  setTimeout(() => process.exit(), 100).unref()
})

const world = once(async () => {
  const dns = await recordDns()
  for (const address of [WEB, GRPC, DATABASE]) claimAddress(address)
  const pages = registries(scratch)
  makeBare(join(scratch, 'git'), 'app.git')
  const git = serveGit(join(scratch, 'git'))
  const answer: Answer = (request, response) => {
    const host = request.headers.host ?? ''
    if (host === 'git.test') return git(request, response)
    if (host === 'files.test') return serveFile(request, response)
    servePage(pages[host] ?? {}, request.url, response)
  }
  const hosts = ['git.test', 'files.test', 'sum.golang.org', ...Object.keys(pages)]
  for (const host of hosts) dns.zone.set(host, [WEB])
  const upgrade: Upgrade = (request, socket) => acceptWebSocket(request, socket, () => undefined)
  const web = await serveHttps(hosts, { address: WEB, port: 443, answer, upgrade })
  dns.zone.set('grpc.test', [GRPC])
  dns.zone.set('db.test', [DATABASE])
  return { hosts, web, grpcCa: await serveGrpc(), databaseCa: await serveDatabase() }
})

type Response = Parameters<Answer>[1]

function servePage(pages: Pages, url: string, response: Response): void {
  const body = pages[decodeURIComponent(new URL(url, 'https://x').pathname)]
  if (body === undefined) response.writeHead(404).end('{}')
  else response.writeHead(200, { 'content-type': typeOf(url, body) }).end(body)
}

const typeOf = (url: string, body: Buffer | string): string =>
  url.startsWith('/simple/')
    ? 'text/html'
    : typeof body === 'string'
      ? 'application/json'
      : 'application/octet-stream'

function serveFile({ url, headers }: Parameters<Answer>[0], response: Response): void {
  const { pathname, searchParams } = new URL(url, 'https://x')
  if (pathname !== '/events') return void response.end(`path ${pathname}\n`)
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  const all = Number(searchParams.get('n'))
  void sendEvents(response, Number(headers['last-event-id'] ?? 0), all, Number(searchParams.get('quiet')))
}

/** `all` events, one a second, with a silence after a third; after two thirds the server hangs up, once. */
async function sendEvents(response: Response, last: number, all: number, quiet: number): Promise<void> {
  response.write('retry: 300\n\n')
  for (let n = last + 1; n <= all; n++) {
    response.write(`id: ${n}\ndata: ${n} ${Date.now()}\n\n`)
    if (n === Math.floor((2 * all) / 3)) return void response.end()
    await sleep(n === Math.floor(all / 3) ? quiet : 1000)
  }
}

function certificate(host: string): { ca: string; cert: string; key: string } {
  const now = Math.floor(Date.now() / 1000)
  const ca = native().createCa('Ambit test', now - 60, now + 86_400)
  return { ...native().createLeaf(ca, host, now - 60, now + 3600), ca: ca.cert }
}

/** The path of grpc-js, loaded from where it was fetched. */
const grpcJs = (): any =>
  createRequire(join(grpcPackage as string, 'package.json'))('@grpc/grpc-js') as unknown

async function serveGrpc(): Promise<string> {
  if (grpcPackage instanceof Error) return ''
  const { Server, ServerCredentials } = grpcJs()
  const { ca, cert, key } = certificate('grpc.test')
  const same = (bytes: Buffer): Buffer => bytes
  const codec = {
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  }
  const server = new Server()
  server.addService(
    {
      say: { path: '/test.Echo/Say', requestStream: false, responseStream: false, ...codec },
      chat: { path: '/test.Echo/Chat', requestStream: true, responseStream: true, ...codec },
    },
    {
      say: (call: any, done: any) => done(null, Buffer.from(`said ${call.request}`)),
      chat: (call: any) => {
        call.on('data', (bytes: Buffer) => call.write(Buffer.from(`heard ${bytes.toString()}`)))
        call.on('end', () => call.end())
      },
    },
  )
  const pair = [{ cert_chain: Buffer.from(cert), private_key: Buffer.from(key) }]
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`${GRPC}:443`, ServerCredentials.createSsl(null, pair), (error: Error | null) =>
      error ? reject(error) : resolve(),
    ),
  )
  return ca
}

/** Speaks no HTTP and, as PostgreSQL does, refuses a hello that does not offer its own protocol. */
async function serveDatabase(): Promise<string> {
  const { ca, cert, key } = certificate('db.test')
  const server = createServer({ cert, key, ALPNProtocols: ['postgresql'] }, (socket) => {
    socket.on('error', () => socket.destroy())
    socket.on('data', (bytes) => socket.end(`db ${socket.alpnProtocol} ${bytes}`))
  })
  server.on('tlsClientError', () => {
    // The refusal that this server is for.
  })
  await new Promise<void>((resolve) => server.listen(5432, DATABASE, resolve))
  server.unref()
  return ca
}

async function makeStage(as: As): Promise<Stage> {
  const { hosts, web, grpcCa, databaseCa } = await world(null)
  const stage = new Stage(as)
  for (const [name, pem] of Object.entries({ web: web.ca, grpc: grpcCa, db: databaseCa }))
    writeFileSync(join(stage.root, `${name}.pem`), pem, { mode: 0o644 })
  const ca = (name: string): string => join(stage.root, `${name}.pem`)
  stage.spec = {
    files: [
      { path: '${project}', access: 'review' },
      { path: '${workspace}', access: 'write' },
    ],
    network: [
      ...hosts.map((host) => ({ host, ca: ca('web') })),
      ...(grpcCa ? [{ host: 'grpc.test', ca: ca('grpc') }] : []),
      { host: 'db.test', ports: [5432], inspect: false, ca: ca('db') },
    ],
  }
  return stage
}

interface Needs {
  /** Programs that it starts, with spaces between. */
  readonly program?: string
  readonly missing?: string | null
  readonly as?: readonly As[]
  /** Refusals that belong to it. */
  readonly refused?: boolean
  readonly timeout?: number
}

/** `files` of the project, a script in it or in `$AMBIT_WORKSPACE`, and what it prints. */
function life(
  title: string,
  files: Readonly<Record<string, string>>,
  script: string,
  says: RegExp,
  { program, missing, as = ['user'], timeout = 90_000 }: Needs = {},
): void {
  const reason = cannot ?? missing ?? (program ? withoutPrograms(...program.split(' ')) : null)
  for (const who of as)
    test(`${title}, as ${who}`, { skip: reason ?? unavailable(who) ?? false }, async () => {
      const stage = await makeStage(who)
      stage.put(stage.project, files)
      const ran = await stage.session(['/bin/bash', '-c', `set -e; ${script}`], { timeout })
      assert.match(ran.stdout, says, describe(ran))
      assert.equal(ran.code, 0, describe(ran))
      assertNothingRefused(ran)
    })
}

function assertNothingRefused(ran: SessionRan): void {
  assert.deepEqual(ran.summary.refusals, [], describe(ran))
}

const BOTH = ['user', 'root'] as const

/** Where a build happens, and how one gets there from the project. */
const PLACES = {
  'in the project under review': 'true',
  'in the workspace': 'cp -r . "$AMBIT_WORKSPACE/app" && cd "$AMBIT_WORKSPACE/app"',
} as const

for (const [place, enter] of Object.entries(PLACES))
  life(
    `npm installs with a dependency and npm ci installs again, ${place}`,
    { 'package.json': '{"name":"app","version":"1.0.0","dependencies":{"tiny":"1.0.0"}}' },
    `${enter}; npm install --no-audit --no-fund --no-update-notifier && rm -rf node_modules && npm ci --no-audit --no-fund --no-update-notifier && node -p "require('tiny')"`,
    /from the registry/,
    { program: 'npm', as: BOTH },
  )

life(
  'pip installs into the workspace',
  {},
  '/usr/bin/python3 -m pip install -q --disable-pip-version-check --target $AMBIT_WORKSPACE/p tiny && PYTHONPATH=$AMBIT_WORKSPACE/p /usr/bin/python3 -c "import tiny; print(tiny.word)"',
  /from the registry/,
)

life(
  'Go reads a module of its proxy',
  { 'go.mod': 'module app\n\ngo 1.20\n\nrequire example.test/tiny v1.0.0\n' },
  'export GOFLAGS=-mod=mod GONOSUMDB="*" GOTOOLCHAIN=local; go mod download; cat $(go list -m -f "{{.Dir}}" example.test/tiny)/tiny.go',
  /from the registry/,
  { program: 'go' },
)

life(
  "Java's HttpClient fetches",
  {
    'Fetch.java':
      'import java.net.URI; import java.net.http.*; class Fetch { public static void main(String[] a) throws Exception { System.out.print(HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(a[0])).build(), HttpResponse.BodyHandlers.ofString()).body()); } }',
  },
  'java -XX:TieredStopAtLevel=1 Fetch.java https://files.test/java',
  /path \/java/,
  { program: 'java' },
)

const POM =
  '<project><modelVersion>4.0.0</modelVersion><parent><groupId>test.tiny</groupId><artifactId>parent</artifactId><version>1.0</version></parent><artifactId>app</artifactId><packaging>pom</packaging></project>'
life(
  'Maven reads its repository',
  { 'pom.xml': POM },
  'mvn -B validate',
  /Downloaded from central.*parent-1\.0\.pom[\s\S]*BUILD SUCCESS/,
  { program: 'mvn' },
)

life(
  'git clones, commits and pushes over HTTPS',
  {},
  'cd $AMBIT_WORKSPACE; git clone -q https://git.test/app.git; cd app; git config user.name t; git config user.email t@t; date +%N > $USER; git add .; git commit -qm "from inside"; git push -q origin HEAD:refs/heads/$USER; git ls-remote origin',
  /refs\/heads\//,
  { as: BOTH },
)

life(
  'wget and curl fetch',
  {},
  'wget -qO- https://files.test/wget; curl -fsS https://files.test/curl',
  /path \/wget\npath \/curl/,
  {
    program: 'wget curl',
  },
)

const WEBSOCKET = `const ws = new WebSocket('wss://files.test/ws');
ws.onopen = () => ws.send('to and fro'); ws.onmessage = ({ data }) => { console.log('got', data); ws.close() };
ws.onerror = (error) => { console.error(error); process.exit(1) }`
test('a WebSocket client talks, as user', { skip: cannot ?? false }, async () => {
  const stage = await makeStage('user')
  const ran = await stage.session([stage.product.node, '-e', WEBSOCKET])
  assert.equal(ran.stdout, 'got to and fro\n', describe(ran))
  assertNothingRefused(ran)
})

const ALPN = `import socket, ssl
context = ssl.create_default_context(cafile='db.pem'); context.set_alpn_protocols(['postgresql'])
with context.wrap_socket(socket.create_connection(('db.test', 5432)), server_hostname='db.test') as s:
    s.sendall(b'hello'); print(s.recv(100).decode())`
test("what is no HTTP passes inside TLS by a rule without inspection, with the client's own ALPN", {
  skip: cannot ?? false,
}, async () => {
  const stage = await makeStage('user')
  const { databaseCa } = await world(null)
  stage.put(stage.project, { 'db.py': ALPN, 'ca/db.crt': databaseCa })
  const run = async (name: string) =>
    stage.session(['/bin/sh', '-c', `sed "s,db.pem,ca/db.crt,;s,postgresql,${name}," db.py | python3 -`])
  const ran = await run('postgresql')
  assert.equal(ran.stdout, 'db postgresql hello\n', describe(ran))
  assertNothingRefused(ran)
  const other = await run('else')
  assert.notEqual(other.code, 0, 'the server refuses another protocol itself')
})

const CLIENT = `const { Client, credentials } = require('@grpc/grpc-js')
const same = (bytes) => bytes, client = new Client('grpc.test:443', credentials.createSsl())
client.makeUnaryRequest('/test.Echo/Say', same, same, Buffer.from('hello'), (error, reply) => {
  if (error) throw error
  console.log(String(reply))
  const chat = client.makeBidiStreamRequest('/test.Echo/Chat', same, same)
  chat.on('data', (bytes) => { console.log(String(bytes)); chat.end() }).on('status', ({ code }) => { console.log('status', code); client.close() })
  chat.write(Buffer.from('stream'))
})`
const noGrpc = grpcPackage instanceof Error ? grpcPackage.message : null
test('a gRPC client calls and streams over HTTP/2, as user', {
  skip: cannot ?? noGrpc ?? false,
}, async () => {
  const stage = await makeStage('user')
  install(join(grpcPackage as string, 'node_modules'), join(stage.project, 'node_modules'))
  stage.put(stage.project, { 'client.cjs': CLIENT })
  const ran = await stage.session([stage.product.node, 'client.cjs'])
  assert.equal(ran.stdout, 'said hello\nheard stream\nstatus 0\n', describe(ran))
  assertNothingRefused(ran)
})

/** Reads the events as a page would: reconnects where the server hung up, says when each came. */
const EVENTS = `const [url, all] = process.argv.slice(1), seen = [], late = []
const source = new EventSource(url)
// Node takes a source that waits to connect again for no reason to live on; a page would.
const open = setInterval(() => {}, 1000)
source.onmessage = ({ data }) => {
  const [n, sent] = data.split(' ').map(Number)
  seen.push(n); late.push(Date.now() - sent)
  if (n < Number(all)) return
  source.close()
  clearInterval(open)
  console.log(JSON.stringify({ inOrder: seen.every((one, index) => one === index + 1), count: seen.length, late: Math.max(...late) }))
}`

/** How many events, and how long nothing comes among them. */
const { AMBIT_TEST_EVENTS: COUNT = 12, AMBIT_TEST_SILENCE: SILENCE = 8 } = process.env
test(`a page's event stream: ${COUNT} events, ${SILENCE} s of silence, a server that hangs up`, {
  skip: cannot ?? false,
}, async () => {
  const stage = await makeStage('user')
  const url = `https://files.test/events?n=${COUNT}&quiet=${Number(SILENCE) * 1000}`
  const argv = [stage.product.node, '--experimental-eventsource', '-e', EVENTS, url, String(COUNT)]
  const timeout = (Number(COUNT) + Number(SILENCE) + 30) * 1000
  const started = performance.now()
  const ran = await stage.session(argv, { timeout })
  assert.equal(ran.code, 0, describe(ran))
  const { inOrder, count, late } = JSON.parse(ran.stdout)
  assert.deepEqual([inOrder, count], [true, Number(COUNT)], 'none is lost, none comes twice')
  assert.ok(late < 3000, `each came when it was sent; one ${late} ms later`)
  assert.ok(performance.now() - started > Number(SILENCE) * 1000, 'control: there was a silence')
  assertNothingRefused(ran)
})

const rust = withoutPrograms('cargo')
for (const as of BOTH)
  for (const place of ['project', 'workspace'] as const)
    test(`cargo builds with a path dependency and with a crate of its registry, in the ${place}, as ${as}`, {
      skip: cannot ?? rust ?? unavailable(as) ?? cargoFor(as) ?? false,
    }, async () => {
      const stage = await makeStage(as)
      stage.put(stage[place], {
        'app/Cargo.toml':
          '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\nnear = { path = "../near" }\ntiny = "1"\n',
        'app/src/main.rs': 'fn main() { println!("{} and {}", near::word(), tiny::word()) }\n',
        'near/Cargo.toml': '[package]\nname = "near"\nversion = "0.1.0"\nedition = "2021"\n',
        'near/src/lib.rs': 'pub fn word() -> &\'static str { "near" }\n',
      })
      const env = { RUSTUP_HOME: process.env.RUSTUP_HOME ?? join(process.env.HOME ?? '', '.rustup') }
      const manifest = join(stage[place], 'app/Cargo.toml')
      const ran = await stage.session(['cargo', 'run', '-q', '--manifest-path', manifest], { env })
      assert.equal(ran.stdout, 'near and from the registry\n', describe(ran))
      assertNothingRefused(ran)
    })

/** The toolchain of root's home is root's. */
function cargoFor(as: As): string | null {
  const found = (process.env.PATH ?? '').split(':').find((dir) => existsSync(join(dir, 'cargo'))) ?? ''
  return as === 'user' && process.getuid?.() === 0 && found.startsWith('/root/')
    ? 'cargo is installed for root only'
    : null
}
