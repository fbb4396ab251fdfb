/** N and X: what is sent on an admitted connection: requests, uploads, keys and budgets. */
import assert from 'node:assert/strict'
import { after } from 'node:test'
import { attack, FOREIGN_KEY, get, head, REAL_KEY } from '../support/net-stage.ts'
import { world, makeStage, spec, watching, raw } from '../support/network-world.ts'
import type { Step } from '../support/stage.ts'
import { settle } from '../support/upstream.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

attack('N-23', 'relays nothing that is not TLS', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const before = good.bytesRead()
  const talk = ['SSH-2.0-OpenSSH_9\r\n', 'GET / HTTP/1.1\r\nhost: good.test\r\n\r\n', 'EHLO good.test\r\n']
  const steps: Step[] = [
    ...talk.map((send, index) => ({
      name: `direct ${index}`,
      op: 'tcp',
      host: 'good.test',
      port: 443,
      send,
      wait: 3000,
    })),
    ...talk.map((text, index) => ({
      name: `tunnel ${index}`,
      op: 'proxy',
      send: [head('CONNECT good.test:443 HTTP/1.1\nhost: good.test:443\n\n'), text],
      gap: 300,
      wait: 3000,
    })),
  ]
  const inside = await stage.inside([steps], { spec: await spec(stage) })
  await settle()
  assert.equal(good.bytesRead(), before, 'bytes reached the server')
  for (const { name } of steps.slice(0, 3))
    assert.doesNotMatch(inside.result(name).value?.received ?? '', /200 OK/)
  for (const { name } of steps.slice(3))
    assert.match(inside.result(name).value.received, /^HTTP\/1\.1 200/, 'control: the tunnel stood')
  return '6 conversations closed, 0 bytes relayed'
})

attack('N-26', 'decides a redirect anew', async (as) => {
  const stage = await makeStage(as)
  const follow = {
    name: 'follow',
    op: 'sh',
    cmd: 'curl -sS -L -m 10 -o /dev/null -w "%{http_code} %{num_redirects} %{url_effective}" https://good.test/redirect 2>&1',
  }
  const seen = await watching(async () =>
    stage.inside([follow, get('header', 'https://good.test/x')], { spec: await spec(stage) }),
  )
  const outside = await watching(() =>
    stage.uncontrolled([{ ...follow, cmd: follow.cmd.replace('curl', 'curl -k') }]),
  )
  assert.equal(outside.evil, 1, 'control: outside curl follows to the other host')
  assert.equal(seen.evil, 0)
  assert.ok(!seen.asked.includes('evil.test'))
  const said = seen.value.result('follow').value.stdout as string
  assert.match(said, /evil\.test/, `curl did follow: ${said}`)
  assert.doesNotMatch(said, /^200/)
  assert.equal(seen.value.result('header').value.headers['alt-svc'], undefined, 'Alt-Svc is stripped')
  return said.slice(0, 40)
})

const SMUGGLED = 'GET /smuggled HTTP/1.1\r\nhost: good.test\r\n\r\n'
const post = (headers: string, body: string): string =>
  head(`POST /n28 HTTP/1.1\nhost: good.test\n${headers}\n\n`) + body
const SMUGGLING: Readonly<Record<string, string>> = {
  'CL and TE': post('content-length: 4\ntransfer-encoding: chunked', `0\r\n\r\n${SMUGGLED}`),
  'two CL': post('content-length: 4\ncontent-length: 5', `aaaa${SMUGGLED}`),
  'CL list': post('content-length: 4, 5', `aaaa${SMUGGLED}`),
  'CL plus': post('content-length: +4', `aaaa${SMUGGLED}`),
  'CL hex': post('content-length: 0x4', `aaaa${SMUGGLED}`),
  'CL negative': post('content-length: -1', SMUGGLED),
  'TE not last chunked': post('transfer-encoding: chunked, identity', `0\r\n\r\n${SMUGGLED}`),
  'TE space before colon': post('transfer-encoding : chunked', `0\r\n\r\n${SMUGGLED}`),
  'TE obscured': post('transfer-encoding: xchunked', `0\r\n\r\n${SMUGGLED}`),
  'obs-fold': post('x-a: b\n transfer-encoding: chunked', `0\r\n\r\n${SMUGGLED}`),
  'bare LF': `POST /n28 HTTP/1.1\nhost: good.test\ncontent-length: 0\n\n${SMUGGLED}`,
  'chunk plus': post('transfer-encoding: chunked', `+1\r\na\r\n0\r\n\r\n${SMUGGLED}`),
  'chunk hex prefix': post('transfer-encoding: chunked', `0x1\r\na\r\n0\r\n\r\n${SMUGGLED}`),
  'LF in chunk extension': post('transfer-encoding: chunked', `1;a\nb\r\na\r\n0\r\n\r\n${SMUGGLED}`),
  'huge chunk extension': post(
    'transfer-encoding: chunked',
    `1;${'x'.repeat(40_000)}\r\na\r\n0\r\n\r\n${SMUGGLED}`,
  ),
  'CR in header': post('x-a: b\rtransfer-encoding: chunked', SMUGGLED),
  'NUL in header': post('x-a: b\0c\ncontent-length: 0', SMUGGLED),
}

attack('N-28', 'refuses the smuggling set', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const before = good.requests.length
  const steps = Object.entries(SMUGGLING).map(([name, send]) => raw(name, send, { wait: 3000 }))
  const chunked = raw(
    'control',
    post('transfer-encoding: chunked\nconnection: close', '3\r\nabc\r\n0\r\n\r\n').replace(
      '/n28',
      '/n28-control',
    ),
  )
  const inside = await stage.inside([steps, chunked], { spec: await spec(stage) })
  await settle()
  const arrived = good.requests.slice(before)
  for (const name of Object.keys(SMUGGLING)) {
    const got = inside.result(name).value?.received as string | undefined
    assert.match(got ?? '', /^(HTTP\/1\.1 4\d\d|$)/, `${name}: ${got?.slice(0, 200)}`)
    assert.ok((got?.match(/^HTTP\/1\.1 /gm) ?? []).length <= 1, `${name} was answered twice: ${got}`)
  }
  assert.ok(!arrived.some((request) => request.url === '/smuggled'))
  // A head in good order may be on its way before its body turns out to be none; that message never ends.
  assert.deepEqual(
    arrived.filter(({ complete }) => complete).map((request) => `${request.url} ${request.body}`),
    ['/n28-control abc'],
  )
  return `${steps.length} refused, none upstream`
})

attack('N-39', 'delivers a 64 MiB upload byte for byte', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const size = 64 * 1024 * 1024
  const inside = await stage.inside(
    [get('put', 'https://good.test/n39', { method: 'PUT', size, timeout: 60_000 })],
    {
      spec: {
        ...(await spec(stage)),
        upload: { perRequest: '100MiB', perMinute: '100MiB', perSession: '100MiB' },
      },
    },
  )
  const got = inside.result('put')
  assert.equal(got.value?.status, 200, got.text ?? got.value?.body)
  const arrived = good.requests.findLast((request) => request.url === '/n39')
  assert.equal(arrived?.bytes, size)
  assert.equal(arrived?.sha256, got.value.sent)
  return 'SHA-256 equal'
})

attack('N-40', 'delivers the refusal while a body is still being sent', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const before = good.bytesRead()
  const pieces = Array.from({ length: 20 }, () => 'x'.repeat(10_000))
  const send = [
    head('POST /forbidden HTTP/1.1\nhost: limited.test\ncontent-length: 200000000\n\n'),
    ...pieces,
  ]
  const inside = await stage.inside([raw('late', send, { host: 'limited.test', gap: 50, wait: 8000 })], {
    spec: await spec(stage),
  })
  const { received, closed } = inside.result('late').value as { received: string; closed: string | null }
  assert.match(received, /^HTTP\/1\.1 403 /)
  const [headers = '', body = ''] = received.split('\r\n\r\n')
  const length = Number(/content-length: (\d+)/i.exec(headers)?.[1])
  assert.equal(Buffer.byteLength(body, 'latin1'), length, 'the whole refusal arrived')
  assert.match(JSON.parse(body).reason, /^network\./)
  assert.ok(closed, 'the connection is closed')
  assert.equal(good.bytesRead(), before, 'nothing went upstream')
  return `403 ${JSON.parse(body).reason}, closed`
})

attack('X-01', 'lets no foreign key out on an allowed host', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const before = good.requests.length
  const foreign: Readonly<Record<string, Step>> = Object.fromEntries(
    [
      get('x-api-key', 'https://key.test/v1/messages', {
        method: 'POST',
        headers: { 'x-api-key': FOREIGN_KEY },
      }),
      get('authorization', 'https://key.test/v1/messages', {
        method: 'POST',
        headers: { authorization: `Bearer ${FOREIGN_KEY}` },
      }),
      get('underscore', 'https://key.test/v1/messages', {
        method: 'POST',
        headers: { X_Api_Key: FOREIGN_KEY },
      }),
      get('dots', 'https://key.test/v1/messages', { method: 'POST', headers: { 'x.api.key': FOREIGN_KEY } }),
      get('two', 'https://key.test/v1/messages', {
        method: 'POST',
        headers: { 'x-api-key': ['placeholder', FOREIGN_KEY] },
      }),
      get('query', `https://key.test/v1/messages?api_key=${FOREIGN_KEY}`, { method: 'POST' }),
      get('files', 'https://key.test/v1/files', { method: 'POST', headers: { 'x-api-key': FOREIGN_KEY } }),
    ].map((step) => [step.name, step]),
  )
  const inside = await stage.inside(
    [
      get('plain', 'https://key.test/v1/messages', { method: 'POST', body: '{}' }),
      { name: 'env', op: 'env' },
      {
        name: 'placeholder',
        op: 'sh',
        cmd: 'curl -sS -m 10 -X POST -H "x-api-key: $API_KEY" https://key.test/v1/messages',
      },
      ...Object.values(foreign),
    ],
    { spec: await spec(stage), env: { REAL_KEY } },
  )
  assert.equal(
    inside.result('plain').value?.status,
    200,
    `control: ${inside.result('plain').value?.body ?? inside.result('plain').text}`,
  )
  assert.match(inside.result('placeholder').value.stdout, /hello/, 'control: the placeholder is replaced')
  const arrived = good.requests.slice(before)
  assert.ok(arrived.length >= 2)
  for (const request of arrived) {
    const wire = JSON.stringify([request.url, request.rawHeaders, request.body])
    assert.ok(!wire.includes(FOREIGN_KEY), `the foreign key left: ${wire}`)
    assert.equal(request.headers['x-api-key'], REAL_KEY)
  }
  assert.ok(!arrived.some((request) => request.url === '/v1/files'), 'another endpoint was reached')
  assert.equal(inside.result('files').value?.status, 403)
  const { value } = inside.result('env')
  assert.ok(value.API_KEY && !JSON.stringify(value).includes(REAL_KEY), 'inside there is a placeholder only')
  const events = JSON.stringify(await stage.events(inside.summary.session))
  assert.ok(!events.includes(REAL_KEY) && !events.includes(FOREIGN_KEY), 'a key is in the log')
  assert.ok(
    inside.summary.refusals.some((refusal) => refusal.reason.includes('credential')),
    'the foreign key is recorded',
  )
  return `${Object.keys(foreign).length} spellings, none left, recorded`
})

attack('X-08', 'adds small uploads up to the budget of the session', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const limit = 256 * 1024
  const before = good.requests.length
  const steps = Array.from({ length: 12 }, (_, index) =>
    get(`post ${index}`, 'https://good.test/x08', { method: 'POST', size: 40 * 1024 }),
  )
  const queries = Array.from({ length: 8 }, (_, index) =>
    get(`query ${index}`, `https://good.test/x08?${'q'.repeat(4000)}`),
  )
  const inside = await stage.inside([...steps, ...queries], {
    spec: {
      ...(await spec(stage)),
      upload: { perRequest: '64KiB', perMinute: '10MiB', perSession: '256KiB' },
    },
  })
  const arrived = good.requests
    .slice(before)
    .reduce((sum, request) => sum + request.bytes + request.url.length, 0)
  assert.ok(arrived <= limit, `${arrived} bytes arrived, the budget is ${limit}`)
  assert.ok(arrived > limit / 2, `control: uploads within the budget arrive (${arrived})`)
  assert.equal(inside.result('post 0').value?.status, 200)
  const last = inside.result('post 11').value?.status
  assert.ok([413, 429].includes(last), `post 11: ${last}`)
  assert.notEqual(inside.result('query 7').value?.status, 200, 'query strings count, too')
  const single = await stage.inside(
    [get('large', 'https://good.test/x08', { method: 'POST', size: 80 * 1024 })],
    {
      spec: {
        ...(await spec(stage)),
        upload: { perRequest: '64KiB', perMinute: '10MiB', perSession: '10MiB' },
      },
    },
  )
  assert.notEqual(single.result('large').value?.status, 200)
  return `${Math.round(arrived / 1024)} of ${limit / 1024} KiB arrived, then ${last}`
})
