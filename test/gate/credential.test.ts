import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { BodyScrubber, masked } from '../../src/gate/scrub.ts'
import type { CredentialPlan } from '../../src/profile/plan.ts'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { planOf, rule, startBench, testCa, until } from './harness.ts'

const SECRET = 'sk-real-0123456789abcdefghij'
const PLACEHOLDER = 'sk-ambitABCDEFGHIJKLMNOPQRSTUVWX'
const TOKEN = 'ghp-real-token-value-1234567890'
const PACKERS: Readonly<Record<string, (body: Buffer) => Buffer>> = {
  gzip: gzipSync,
  deflate: deflateSync,
  br: brotliCompressSync,
  zstd: zstdCompressSync,
}
const credential = (fields: Partial<CredentialPlan> & { name: string; header: string }): CredentialPlan => ({
  kind: 'header',
  prefix: '',
  source: 'env:X',
  env: null,
  ...fields,
})

const upstream = await startUpstream({
  tls: testCa.issue(['model.example.com', 'git.example.com', 'free.example.com', 'keyless.example.com']),
  http2: true,
  handle: (request, response) => {
    const [, how = ''] = /^\/packed\/(\w+)$/.exec(request.url ?? '') ?? []
    if (how === '') return false
    const pack = PACKERS[how]
    const text = `you sent ${String(request.headers['x-api-key'] ?? 'nothing')} and more`
    const body = how === 'broken' ? Buffer.from('no gzip') : (pack?.(Buffer.from(text)) ?? Buffer.from(text))
    const headers = {
      'content-encoding': how === 'broken' ? 'gzip' : how,
      'content-length': String(body.length),
    }
    response.writeHead(200, headers)
    response.end(request.method === 'HEAD' ? undefined : body)
    return true
  },
})
const connect = { address: '127.0.0.1', port: upstream.port }
const plan = planOf(
  [
    rule({ host: 'model.example.com', connect, credential: 'model' }),
    rule({ host: 'git.example.com', connect, credential: 'git' }),
    rule({ host: 'free.example.com', connect }),
    rule({ host: 'keyless.example.com', connect, credential: 'absent' }),
    rule({ host: 'model.example.com', ports: [80], plain: true, connect, credential: 'model', id: 'plain' }),
  ],
  {
    credentials: [
      credential({ name: 'model', header: 'x-api-key' }),
      credential({ name: 'git', header: 'authorization', prefix: 'Bearer ' }),
      credential({ name: 'absent', header: 'x-api-key' }),
    ],
  },
)
const bench = await startBench(plan, {
  secrets: new Map([
    ['model', SECRET],
    ['git', TOKEN],
  ]),
  placeholders: new Map([
    ['model', PLACEHOLDER],
    ['git', 'ghp-placeholder-for-git-0000001'],
    ['absent', 'nothing-placeholder-000001'],
  ]),
})
after(async () => {
  await bench.close()
  await upstream.close()
})

const seen = () => upstream.requests.at(-1) ?? assert.fail('the server saw nothing')

for (const version of ['--http1.1', '--http2']) {
  const get = (url: string, ...headers: string[]) =>
    bench.curl(url, version, ...headers.flatMap((line) => ['-H', line]))

  test(`${version}: the placeholder, or nothing, becomes the credential`, async () => {
    for (const headers of [[], [`X-Api-Key: ${PLACEHOLDER}`], [`Authorization: Bearer ${PLACEHOLDER}`]]) {
      assert.equal((await get('https://model.example.com/', ...headers)).status, 200)
      assert.equal(seen().headers['x-api-key'], SECRET)
      assert.equal(seen().headers.authorization, undefined)
    }
    const injected = bench.of('credential.injected').at(-1)
    assert.deepEqual([injected?.name, injected?.host], ['model', 'model.example.com'])
    await get('https://git.example.com/')
    assert.equal(seen().headers.authorization, `Bearer ${TOKEN}`)
  })

  test(`${version}: a placeholder in Basic form is the placeholder`, async () => {
    const pair = Buffer.from(`x-access-token:ghp-placeholder-for-git-0000001`).toString('base64')
    assert.equal((await get('https://git.example.com/', `Authorization: Basic ${pair}`)).status, 200)
    assert.equal(seen().headers.authorization, `Bearer ${TOKEN}`)
  })

  const FOREIGN = [
    'X-Api-Key: sk-attacker-key',
    'x_api_key: sk-attacker-key',
    'X.Api-Key: sk-attacker-key',
    'Authorization: Bearer sk-attacker-key',
    'Authorization: Basic YTpi',
    'Api-Key: sk-attacker-key',
    'X-Goog-Api-Key: sk-attacker-key',
    `X-Api-Key: ${PLACEHOLDER}x`,
    `X-Api-Key: sk-attacker-key ${PLACEHOLDER}`,
  ]
  for (const header of FOREIGN)
    test(`X-01, K-06, N-29 ${version}: a foreign credential is refused and recorded: ${header}`, async () => {
      const before = upstream.requests.length
      const recorded = bench.of('credential.foreign').length
      const { status, body } = await get('https://model.example.com/v1/files', header)
      assert.equal(status, 403)
      const { reason } = JSON.parse(body) as { reason: string }
      assert.match(reason, /^credential\.(foreign|misplaced)$/)
      assert.equal(upstream.requests.length, before)
      if (reason === 'credential.foreign') assert.equal(bench.of('credential.foreign').length, recorded + 1)
    })

  test(`X-01 ${version}: of two credential headers, one foreign, neither passes`, async () => {
    const before = upstream.requests.length
    const answer = await get(
      'https://model.example.com/',
      `X-Api-Key: ${PLACEHOLDER}`,
      'X-Api-Key: sk-attacker',
    )
    assert.equal(answer.status, 403)
    assert.equal(upstream.requests.length, before)
  })

  test(`X-01 ${version}: keys in the query are refused, the placeholder is taken out`, async () => {
    for (const query of [
      'key=AIzaAttacker',
      'api_key=x',
      'access_token=x',
      'API-KEY=x',
      'a=1&%6bey=x',
      'api%5fkey=x',
      'a=1;key=x',
      'a=1;b=2;api_key=x&c=3',
      'private_token=x',
      'X-Goog-Signature=x',
      'X-Amz-Credential=x',
      'client_secret=x',
    ])
      assert.equal((await get(`https://model.example.com/v1?${query}`)).status, 403, query)
    assert.equal((await get(`https://model.example.com/v1?a=1&key=${PLACEHOLDER}&b=2`)).status, 200)
    assert.equal(seen().url, '/v1?a=1&b=2')
    assert.equal((await get(`https://model.example.com/v1?key=${PLACEHOLDER};a=1;;b&=2&`)).status, 200)
    assert.equal(seen().url, '/v1?a=1;;b&=2&')
  })

  test(`K-02 ${version}: a placeholder goes to no other host, in no other place`, async () => {
    const before = upstream.requests.length
    const bearer = `Authorization: Bearer ${PLACEHOLDER}`
    for (const [url, ...headers] of [
      ['https://free.example.com/', bearer],
      ['https://free.example.com/', `X-Note: see ${PLACEHOLDER}`],
      [
        'https://free.example.com/',
        `Authorization: Basic ${Buffer.from(`u:${PLACEHOLDER}`).toString('base64')}`,
      ],
      [`https://free.example.com/?q=${PLACEHOLDER}`],
      ['https://git.example.com/', bearer],
    ] as const) {
      const { status, body } = await get(url, ...headers)
      assert.equal(status, 403, url)
      assert.equal((JSON.parse(body) as { reason: string }).reason, 'credential.misplaced')
    }
    assert.equal(upstream.requests.length, before)
  })

  test(`${version}: where no rule injects, a client’s own credential passes as it is`, async () => {
    await get('https://free.example.com/?key=mine', 'Authorization: Bearer own', 'X-Api-Key: own')
    assert.equal(seen().headers.authorization, 'Bearer own')
    assert.equal(seen().headers['x-api-key'], 'own')
    assert.equal(seen().url, '/?key=mine')
  })

  test(`X-15 ${version}: an echoed credential is taken out of headers and masked in the body`, async () => {
    const { status, body } = await bench.curl('https://model.example.com/header-echo', version, '-i')
    assert.equal(status, 200)
    assert.ok(!body.includes(SECRET))
    assert.match(body, /x-clean: yes/i)
    assert.ok(body.endsWith(`you sent ${'*'.repeat(SECRET.length)} and more`))
    await until(() => bench.of('http.response').at(-1)?.scrubbed === 2)
  })
}

for (const version of ['--http1.1', '--http2']) {
  for (const how of Object.keys(PACKERS)) {
    test(`X-15 ${version}: an echo that the server packs with ${how}, asked or not, is opened and masked`, async () => {
      const { status, body } = await bench.curl(`https://model.example.com/packed/${how}`, version)
      assert.equal(status, 200)
      assert.equal(body, `you sent ${'*'.repeat(SECRET.length)} and more`)
      // Where nothing is injected a body is the server's own business.
      const free = await bench.curl(`https://free.example.com/packed/${how}`, version, '--compressed')
      assert.equal(free.body, 'you sent nothing and more')
    })
  }

  test(`X-15 ${version}: a body that cannot be opened does not reach a client`, async () => {
    const unknown = await bench.curl('https://model.example.com/packed/compress', version)
    assert.equal(unknown.status, 502)
    const broken = await bench.curl('https://model.example.com/packed/broken', version)
    assert.notEqual(broken.code, 0)
    assert.equal((await bench.curl('https://model.example.com/packed/gzip', version, '-I')).status, 200)
    assert.equal((await bench.curl('https://model.example.com/', version)).status, 200)
  })
}

test('X-15: a client cannot hide an echo by asking for it compressed', async () => {
  await bench.curl('https://model.example.com/header-echo', '-H', 'Accept-Encoding: gzip, br')
  assert.equal(seen().headers['accept-encoding'], 'identity')
  await bench.curl('https://free.example.com/', '-H', 'Accept-Encoding: gzip')
  assert.equal(seen().headers['accept-encoding'], 'gzip')
})

test('N-33: a credential never travels in the clear', async () => {
  const before = upstream.connections
  const { status, body } = await bench.curl('http://model.example.com/')
  assert.equal(status, 403)
  assert.equal((JSON.parse(body) as { reason: string }).reason, 'credential.plain')
  assert.equal(upstream.connections, before)
})

test('a credential without a value on this machine is a refusal, not a request without it', async () => {
  const { status, body } = await bench.curl('https://keyless.example.com/')
  assert.equal(status, 403)
  assert.equal((JSON.parse(body) as { reason: string }).reason, 'credential.unavailable')
})

test('K-08: neither secrets nor foreign keys are in any fact', () => {
  const text = JSON.stringify(bench.facts)
  for (const secret of [SECRET, TOKEN, 'sk-attacker', 'AIzaAttacker'])
    assert.ok(!text.includes(secret), secret)
  assert.match(bench.of('credential.foreign')[0]?.fingerprint ?? '', /^[0-9a-f]{12}$/)
})

test('X-15: a secret split over chunks is masked, and nothing else is changed or kept back', async () => {
  const injection = { name: 'n', header: 'h', value: SECRET, needles: [SECRET] }
  const text = `start ${SECRET} sk-real-012 ${SECRET}${SECRET} end sk-re`
  for (let size = 1; size < 40; size++) {
    const scrubber = BodyScrubber.for(injection) ?? assert.fail()
    let out = ''
    scrubber.on('data', (chunk: Buffer) => (out += chunk.toString()))
    const pieces: Buffer[] = []
    for (let at = 0; at < text.length; at += size) pieces.push(Buffer.from(text.slice(at, at + size)))
    for (const piece of pieces) scrubber.write(Buffer.from(piece))
    await new Promise((resolve) => scrubber.end(resolve))
    await new Promise((resolve) => setImmediate(resolve))
    const clean = text.replaceAll(SECRET, '*'.repeat(SECRET.length))
    assert.equal(out, clean, String(size))
    let found = 0
    const whole = masked(pieces, injection, () => found++)
    assert.equal(Buffer.concat(whole).toString(), clean, `whole, ${size}`)
    assert.equal(found, 3)
  }
})
