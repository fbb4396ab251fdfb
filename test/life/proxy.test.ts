/** A real proxy (tinyproxy) as the only way out of the network, as companies have one: up, choosy, and down. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { createServer } from 'node:tls'
import { createTestCa, type TestCa } from '../fixtures/servers/certificates.ts'
import { labMissing } from '../support/lab.ts'
import { once } from '../support/case.ts'
import { goodHost } from '../support/net-stage.ts'
import { eventually } from '../support/processes.ts'
import { withoutPrograms } from '../support/programs.ts'
import { writeCa } from '../support/soak.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, identity, unavailable } from '../support/users.ts'

const cannot = labMissing ?? withoutPrograms('tinyproxy', 'curl')
const PORT = 8888
const dir = mkdtempSync(join(tmpdir(), 'ambit-proxy-'))
const logFile = join(dir, 'log')
after(() => {
  rmSync(dir, { recursive: true, force: true })
  setTimeout(() => process.exit(), 100).unref()
})

/** It asks for a password, lets nobody but port 443 through, and refuses one host by name. */
const CONFIG = `Port ${PORT}
Listen 127.0.0.1
LogFile "${logFile}"
LogLevel Connect
BasicAuth someone secret
ConnectPort 443
Filter "${join(dir, 'filter')}"
Timeout 600
`

async function startProxy(): Promise<() => void> {
  writeFileSync(join(dir, 'tinyproxy.conf'), CONFIG)
  writeFileSync(join(dir, 'filter'), '^refused\\.test$\n')
  writeFileSync(logFile, '')
  chmodSync(dir, 0o755)
  chmodSync(logFile, 0o666)
  const child = spawn('tinyproxy', ['-d', '-c', join(dir, 'tinyproxy.conf')], {
    ...identity('user'),
    stdio: 'ignore',
  })
  child.unref()
  const stop = (): void => void child.kill('SIGKILL')
  process.once('exit', stop)
  assert.ok(await eventually(() => answers()), 'control: the proxy runs')
  return stop
}

function answers(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(PORT, '127.0.0.1', () => resolve(true))
    socket.once('error', () => resolve(false)).once('connect', () => socket.destroy())
  })
}

const world = once(async () => {
  const stop = await startProxy()
  return { ...(await goodHost(undefined, ['good.test', 'refused.test'])), stop }
})

/** What curl says of each URL inside, with the proxy of `url`. */
const fetches = (as: As, url: string, ...urls: readonly string[]) =>
  fetchesBy(as, { AMBIT_UPSTREAM_PROXY: url }, ...urls)

async function fetchesBy(as: As, env: Record<string, string>, ...urls: readonly string[]) {
  const { good } = await world(null)
  const stage = new Stage(as)
  const ca = writeCa(stage, good.ca)
  const before = good.connections()
  const script = urls.map((one) => `curl -sS -m 30 ${one}; echo`).join('; ')
  const ran = await stage.session(['/bin/sh', '-c', script], {
    env,
    spec: { network: ['good.test', 'refused.test', 'nowhere.test'].map((host) => ({ host, ca })) },
  })
  const why = JSON.parse((await stage.ambit(['why', '--json'])).stdout) as any[]
  return { ran, why, arrived: good.connections() - before }
}

/** The same proxy behind TLS, with a certificate of `ca` for `names`. */
async function overTls(ca: TestCa, names: readonly string[]): Promise<{ port: number; close: () => void }> {
  const server = createServer({ ...ca.issue(names) }, (socket) => {
    const proxy = connect(PORT, '127.0.0.1')
    for (const one of [socket, proxy]) one.on('error', () => (socket.destroy(), proxy.destroy()))
    socket.pipe(proxy).pipe(socket)
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { port: (server.address() as AddressInfo).port, close: () => void server.close() }
}

const URL = `http://someone:secret@127.0.0.1:${PORT}`
for (const as of ['user', 'root'] as const) {
  const skip = cannot ?? unavailable(as) ?? false

  test(`inspected TLS goes through the proxy, and nothing beside it, as ${as}`, { skip }, async () => {
    const { ran, arrived } = await fetches(as, URL, 'https://good.test/', 'https://good.test/again')
    assert.equal(ran.stdout, 'hello\nhello\n', describe(ran))
    const told = readFileSync(logFile, 'utf8')
    assert.ok(arrived > 0)
    assert.match(told, /CONNECT good\.test:443/)
  })

  test(`what the proxy refuses, or cannot reach, says so, as ${as}`, { skip }, async () => {
    const { ran, why } = await fetches(as, URL, 'https://refused.test/', 'https://nowhere.test/')
    const [refused, nowhere] = ran.stdout.split('\n').filter(Boolean)
    assert.match(
      refused ?? '',
      /The proxy that leads out of this network refuses refused\.test/,
      describe(ran),
    )
    assert.match(nowhere ?? '', /nowhere\.test could not be reached/)
    const remedy = why.find(({ target }) => target.includes('refused.test'))
    assert.match(remedy.advice, /The profile allows it; the organisation's proxy refuses this host/)
  })

  test(`a wrong password and none are told from a refusal, and the password is told nobody, as ${as}`, {
    skip,
  }, async () => {
    for (const url of [URL.replace('secret', 'wr0ng'), `http://127.0.0.1:${PORT}`]) {
      const { ran, why, arrived } = await fetches(as, url, 'https://good.test/')
      assert.match(ran.stdout, /wants other credentials to reach good\.test/, describe(ran))
      assert.equal(arrived, 0)
      assert.match(why[0].advice, /set AMBIT_UPSTREAM_PROXY=/)
      const told = ran.stdout + ran.stderr + JSON.stringify(why) + JSON.stringify(ran.summary)
      assert.doesNotMatch(told, /wr0ng/)
    }
  })
}

for (const as of ['user', 'root'] as const) {
  const skip = cannot ?? unavailable(as) ?? false

  test(`a proxy over TLS is used with its roots, and refused in words without, as ${as}`, {
    skip,
  }, async () => {
    const ca = createTestCa()
    const roots = join(dir, `roots-${as}.pem`)
    // More than one in a file, and words beside them, as bundles have it.
    writeFileSync(roots, `# Corp\n${createTestCa('Another').cert}\n${ca.cert}`)
    const proxy = await overTls(ca, ['localhost'])
    const url = `https://someone:secret@localhost:${proxy.port}`
    const big = `-o /dev/null -w '%{size_download} %{http_code}\\n' https://good.test/big`
    const asks = ['https://good.test/', 'https://good.test/again', '--http1.1 https://good.test/']
    const with_ = { AMBIT_UPSTREAM_PROXY: url, AMBIT_UPSTREAM_ROOTS: roots }
    const trusted = await fetchesBy(as, with_, ...asks, big)
    assert.match(trusted.ran.stdout, /^hello\nhello\nhello\n\d+ 200\n/, describe(trusted.ran))
    assert.ok(trusted.arrived > 0)

    const other = await overTls(ca, ['other.test'])
    const untrusted = [
      { AMBIT_UPSTREAM_PROXY: url },
      { ...with_, AMBIT_UPSTREAM_PROXY: url.replace(`${proxy.port}`, `${other.port}`) },
    ]
    for (const env of untrusted) {
      const { ran, why, arrived } = await fetchesBy(as, env, 'https://good.test/')
      assert.match(
        ran.stdout,
        /shows a certificate that nothing here vouches for.* AMBIT_UPSTREAM_ROOTS/,
        describe(ran),
      )
      assert.match(why[0].advice, /set AMBIT_UPSTREAM_ROOTS=FILE/)
      assert.equal(arrived, 0)
    }
    proxy.close()
    other.close()
  })
}

test('a proxy or roots that cannot be used end the start with one line, without the password', {
  skip: cannot ?? unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user')
  const empty = join(dir, 'empty.pem')
  writeFileSync(empty, 'no certificate\n')
  const broken = join(dir, 'broken.pem')
  writeFileSync(broken, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n')
  const noProxy =
    /^ambit: AMBIT_UPSTREAM_PROXY: it is not the address of an HTTP proxy; set it to http:[^\n]+\n$/
  const noRoots = /^ambit: AMBIT_UPSTREAM_ROOTS: [^\n]+; name a readable PEM file of certificates [^\n]+\n$/
  for (const [name, value, line] of [
    ['AMBIT_UPSTREAM_PROXY', 'proxy.test:8080', noProxy],
    ['AMBIT_UPSTREAM_PROXY', 'socks5://me:pAssw0rd@proxy.test:1080', noProxy],
    ['AMBIT_UPSTREAM_PROXY', 'http://me:pAssw0rd%@proxy.test:8080', noProxy],
    ['AMBIT_UPSTREAM_PROXY', 'http://', noProxy],
    ['AMBIT_UPSTREAM_ROOTS', join(dir, 'missing.pem'), noRoots],
    ['AMBIT_UPSTREAM_ROOTS', empty, noRoots],
    ['AMBIT_UPSTREAM_ROOTS', broken, noRoots],
  ] as const) {
    const ran = await stage.session(['/bin/echo', 'it-ran'], { env: { [name]: value } })
    assert.equal(ran.code, 125, describe(ran))
    assert.match(ran.stderr, line)
    assert.doesNotMatch(ran.stdout + ran.stderr, /it-ran|pAssw0rd/)
  }
})

test('a proxy that is down is refused with a word, and no other way is tried', {
  skip: cannot ?? false,
}, async () => {
  const { stop } = await world(null)
  stop()
  assert.ok(await eventually(async () => !(await answers())))
  const { ran, arrived } = await fetches('user', URL, 'https://good.test/')
  assert.match(ran.stdout, /The proxy that leads out of this network could not be reached/, describe(ran))
  assert.equal(arrived, 0)
})
