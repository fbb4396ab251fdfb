/** A real proxy (tinyproxy) as the only way out of the network, as companies have one: up, choosy, and down. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
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
async function fetches(as: As, url: string, ...urls: readonly string[]) {
  const { good } = await world(null)
  const stage = new Stage(as)
  const ca = writeCa(stage, good.ca)
  const before = good.connections()
  const script = urls.map((one) => `curl -sS -m 30 ${one}; echo`).join('; ')
  const ran = await stage.session(['/bin/sh', '-c', script], {
    env: { AMBIT_UPSTREAM_PROXY: url },
    spec: { network: ['good.test', 'refused.test', 'nowhere.test'].map((host) => ({ host, ca })) },
  })
  const why = JSON.parse((await stage.ambit(['why', '--json'])).stdout) as any[]
  return { ran, why, arrived: good.connections() - before }
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
