/** a resolver that is silent, knows nothing, or says too much. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { attackIn, once } from '../support/case.ts'
import { recordDns } from '../support/dns.ts'
import { claimAddress, labMissing, packetsOut } from '../support/lab.ts'
import { describe, Stage } from '../support/stage.ts'
import { serveHttps } from '../support/upstream.ts'

const attack = attackIn(labMissing)
const PUBLIC = '93.184.216.34'

const world = once(async () => {
  claimAddress(PUBLIC)
  const dns = await recordDns()
  dns.zone.set('good.test', [PUBLIC])
  // More private addresses than anybody has, and the one that may be dialled at the end.
  dns.zone.set('wordy.test', [...Array.from({ length: 26 }, (_, i) => `10.0.0.${i + 1}`), PUBLIC])
  dns.silent.add('silent.test')
  const good = await serveHttps(['good.test', 'wordy.test'], { address: PUBLIC, port: 443 })
  return { dns, good }
})

after(() => setTimeout(() => process.exit(), 100).unref())

const SCRIPT = `
import https from 'node:https'
const get = (url) => new Promise((resolve) => {
  const began = performance.now()
  const done = (value) => resolve({ ...value, ms: Math.round(performance.now() - began) })
  https.get(url, { agent: false }, (response) => {
    let body = ''
    response.on('data', (bytes) => (body += bytes)).on('end', () => done({ status: response.statusCode, body }))
  }).on('error', (error) => done({ error: error.code }))
})
const flood = Promise.all(Array.from({ length: 100 }, (_, i) => get('https://n' + i + '.flood.test/')))
const out = { silent: await get('https://silent.test/'), nothing: await get('https://nothing.test/') }
out.wordy = await get('https://wordy.test/')
out.flood = [...new Set((await flood).map(({ status }) => status))]
out.good = await get('https://good.test/')
console.log(JSON.stringify(out))
`

attack('Q-12', 'refuses in time when the resolver fails, and asks no other', async (as) => {
  const { good, dns } = await world(null)
  const stage = new Stage(as, { files: { 'ask.mjs': SCRIPT } })
  const ca = join(stage.root, 'ca.pem')
  writeFileSync(ca, good.ca, { mode: 0o644 })
  const hosts = ['good.test', 'silent.test', 'nothing.test', 'wordy.test', '*.flood.test']
  const network = hosts.map((host) => ({ host, ca, methods: ['GET'], paths: ['/*'] }))
  const [asked, packets] = [dns.asked.length, packetsOut()]
  const ran = await stage.session([stage.product.node, 'ask.mjs'], { spec: { network } })
  assert.equal(ran.code, 0, describe(ran))
  const value = JSON.parse(ran.stdout)
  for (const name of ['silent', 'nothing']) {
    assert.equal(value[name].status, 502, `${name}: ${JSON.stringify(value[name])}`)
    assert.match(value[name].body, /upstream\.unresolvable/)
  }
  assert.ok(value.silent.ms < 9_000, `silent: ${value.silent.ms} ms`)
  assert.deepEqual(value.flood, [502])
  assert.equal(value.wordy.status, 200, 'the public address of many is dialled')
  assert.equal(value.good.status, 200, 'control: a name that resolves')
  assert.equal(packetsOut(), packets, 'another resolver was asked')
  assert.ok(dns.asked.slice(asked).includes('nothing.test'), 'control: the recorder was asked')
  return `silent: 502 after ${(value.silent.ms / 1000).toFixed(1)} s; 100 unknown names: 502`
})
