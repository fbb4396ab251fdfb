/** N: to whom it goes: names, spellings, addresses, and what a TLS hello says. */
import assert from 'node:assert/strict'
import { after } from 'node:test'
import { clientHello, extension, serverName } from '../support/client-hello.ts'
import { attack, get, head, PUBLIC } from '../support/net-stage.ts'
import {
  METADATA,
  FORBIDDEN,
  world,
  makeStage,
  spec,
  outsideEnv,
  watching,
  raw,
} from '../support/network-world.ts'
import type { Step } from '../support/stage.ts'
import { settle } from '../support/upstream.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

attack('N-04', 'refuses a name before it resolves it', async (as) => {
  const stage = await makeStage(as)
  const url = 'https://c2VjcmV0LWRhdGE.evil.test/'
  const steps: Step[] = [
    get('transparent', url),
    { name: 'tunnel', op: 'tunnel', host: 'c2VjcmV0LWRhdGE.evil.test', port: 443, send: 'x' },
    {
      name: 'absolute',
      op: 'proxy',
      send: head('GET http://c2VjcmV0LWRhdGE.evil.test/ HTTP/1.1\nhost: c2VjcmV0LWRhdGE.evil.test\n\n'),
      wait: 2000,
    },
  ]
  const inside = await watching(async () => stage.inside(steps, { spec: await spec(stage) }))
  const outside = await watching(() => stage.uncontrolled(steps.slice(0, 1), { env: outsideEnv(stage) }))
  assert.ok(outside.asked.includes('c2vjcmv0lwrhdge.evil.test'), 'control: outside the name is looked up')
  assert.deepEqual(inside.asked, [])
  assert.equal(inside.evil, 0)
  const got = inside.value.result('transparent')
  assert.ok(!got.ok || got.value.status === 403)
  assert.match(JSON.stringify(inside.value.result('tunnel')), /HTTP403|"connected":true/)
  assert.match(inside.value.result('absolute').value.received, /^HTTP\/1\.1 403 /)
  return `${got.ok ? got.value.status : got.error}, no query`
})

attack('N-06', 'refuses a NUL in a host', async (as) => {
  const stage = await makeStage(as)
  const proxy = (name: string, target: string): Step => ({
    name,
    op: 'proxy',
    send: head(`CONNECT ${target}:443 HTTP/1.1\nhost: ${target}:443\n\n`),
    wait: 2000,
  })
  const steps = [
    proxy('good', 'good.test'),
    proxy('nul', 'evil.test\0.good.test'),
    proxy('escaped', 'evil.test%00.good.test'),
    {
      name: 'uri',
      op: 'proxy',
      send: head('GET http://evil.test\0.good.test/ HTTP/1.1\nhost: good.test\n\n'),
      wait: 2000,
    },
    {
      name: 'sni',
      op: 'tcp',
      host: 'good.test',
      port: 443,
      send: clientHello([serverName(['evil.test\0.good.test'])]).toString('latin1'),
      wait: 2000,
    },
  ]
  const seen = await watching(async () => stage.inside(steps, { spec: await spec(stage) }))
  assert.match(
    seen.value.result('good').value.received,
    /^HTTP\/1\.1 200/,
    'control: the plain name is let through',
  )
  for (const name of ['nul', 'escaped', 'uri'])
    assert.match(seen.value.result(name).value.received, /^(HTTP\/1\.1 4|$)/, name)
  assert.equal(seen.evil, 0)
  assert.deepEqual(
    seen.asked.filter((name) => name.includes('evil')),
    [],
  )
  return seen.value.result('nul').value.received.split('\r\n')[0] || 'closed'
})

attack('N-08', 'uses one canonical form of a name', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const before = good.requests.length
  const seen = await watching(async () =>
    stage.inside(
      [
        get('upper', 'https://GOOD.test/upper', { headers: { host: 'GOOD.test' } }),
        get('dot', 'https://good.test./dot'),
        get('limited', 'https://LIMITED.test./v1/x', { method: 'POST', headers: { host: 'LIMITED.test.' } }),
        get('evil', 'https://EVIL.test./'),
      ],
      { spec: await spec(stage) },
    ),
  )
  assert.equal(seen.value.result('upper').value?.status, 200, seen.value.result('upper').text)
  for (const request of good.requests.slice(before)) {
    assert.equal(request.servername, 'good.test')
    assert.equal(request.headers.host, 'good.test')
  }
  assert.notEqual(seen.value.result('limited').value?.status, 200, 'another spelling lifts the method limit')
  assert.equal(seen.evil, 0)
  assert.ok(!seen.asked.some((name) => name.includes('evil')))
  return 'canonical in SNI, Host, rule'
})

attack('N-17', 'reaches no private or own address', async (as) => {
  const { privates, metadata, local } = await world(null)
  const stage = await makeStage(as)
  const count = (): number =>
    [...privates, metadata, local].reduce((sum, server) => sum + server.connections(), 0)
  const before = count()
  const tries: Step[] = FORBIDDEN.map((address) => ({
    name: address,
    op: 'tls',
    host: address,
    port: 443,
    servername: 'private.test',
    insecure: true,
    wait: 1200,
  }))
  const more: Step[] = [
    {
      name: 'metadata http',
      op: 'tcp',
      host: METADATA,
      port: 80,
      send: head('GET / HTTP/1.1\nhost: x\n\n'),
      wait: 1200,
    },
    { name: 'host loopback', op: 'tcp', host: '127.0.0.1', port: local.port, wait: 1200 },
    ...['::1', '::ffff:10.0.0.5', 'fd00:ec2::254'].map((address) => ({
      name: address,
      op: 'tcp',
      host: address,
      port: 443,
      wait: 1200,
    })),
    ...[...FORBIDDEN, '[::1]', '[::ffff:127.0.0.1]', '127.1', '0x7f.0.0.1', '2130706433', 'localhost'].map(
      (address) => ({
        name: `connect ${address}`,
        op: 'proxy',
        send: head(`CONNECT ${address}:443 HTTP/1.1\nhost: ${address}:443\n\n`),
        wait: 1500,
      }),
    ),
  ]
  const inside = await stage.inside([tries, more], { spec: await spec(stage) })
  await settle()
  assert.equal(count(), before, 'a private server was reached')
  for (const step of more.filter((one) => one.op === 'proxy'))
    assert.doesNotMatch(inside.result(step.name).value?.received ?? '', /^HTTP\/1\.1 200/, step.name)
  assert.ok(!inside.stdout.includes('creds') && !inside.stdout.includes('local service'))
  await stage.uncontrolled([tries.slice(0, 2)])
  assert.ok(count() > before, 'control: outside they answer')
  return `${tries.length + more.length} ways, none arrived`
})

attack('N-18', 'refuses an allowed name at a private address', async (as) => {
  const { privates, pinned } = await world(null)
  const stage = await makeStage(as)
  const count = (): number => privates.reduce((sum, server) => sum + server.connections(), 0)
  const before = count()
  const inside = await stage.inside(
    [
      FORBIDDEN.map((address, index) => get(address, `https://private${index}.test/`)),
      get('edge', 'https://edge.test/'),
      get('pinned', 'https://pinned.test/'),
    ],
    { spec: await spec(stage) },
  )
  for (const address of FORBIDDEN)
    assert.equal(inside.result(address).value?.status, 403, `${address}: ${inside.result(address).text}`)
  assert.equal(count(), before)
  assert.equal(
    inside.result('edge').value?.status,
    200,
    `the neighbour of 100.64/10 is public: ${inside.result('edge').value?.body}`,
  )
  assert.equal(inside.result('pinned').value?.status, 200, 'control: a pin leads to loopback')
  assert.ok(pinned.requests.length > 0)
  return `403 for ${FORBIDDEN.length} addresses; a pin works`
})

attack('N-19', 'dials the address that it vetted', async (as) => {
  const { privates, good, dns } = await world(null)
  let turn = 0
  dns.zone.set('rebind.test', () => (turn++ === 0 ? [PUBLIC] : ['127.0.0.1']))
  const stage = await makeStage(as)
  const count = (): number => privates.reduce((sum, server) => sum + server.connections(), 0)
  const before = count()
  const arrived = good.requests.length
  const inside = await stage.inside(
    [
      get('first', 'https://rebind.test/rebind'),
      get('second', 'https://rebind.test/rebind'),
      get('mixed', 'https://mixed.test/'),
    ],
    { spec: await spec(stage) },
  )
  assert.equal(count(), before, 'a private address was dialled')
  assert.equal(
    inside.result('first').value?.status,
    200,
    `control: the public answer is dialled: ${inside.result('first').value?.body ?? inside.result('first').text}`,
  )
  assert.ok(good.requests.length > arrived)
  return `second answer: ${inside.result('second').value?.status ?? inside.result('second').error}`
})

attack('N-20', 'refuses when SNI, Host and authority differ', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const before = good.requests.length
  const plain = (host: string, path = '/n20'): string =>
    head(`GET ${path} HTTP/1.1\nhost: ${host}\nconnection: close\n\n`)
  const steps: Step[] = [
    raw('control', plain('good.test', '/n20-control')),
    raw('other sni', plain('good.test'), { servername: 'limited.test', insecure: true }),
    raw('evil sni', plain('evil.test'), { servername: 'evil.test', insecure: true }),
    raw('other host', plain('limited.test')),
    raw('evil host', plain('evil.test')),
    raw('two hosts', head('GET /n20 HTTP/1.1\nhost: good.test\nhost: evil.test\n\n')),
    raw('absolute other', head('GET https://evil.test/n20 HTTP/1.1\nhost: good.test\nconnection: close\n\n')),
    {
      name: 'tunnel other',
      op: 'tunnel',
      host: 'good.test',
      port: 443,
      servername: 'limited.test',
      insecure: true,
      send: plain('limited.test'),
      wait: 2500,
    },
    {
      name: 'tunnel evil',
      op: 'tunnel',
      host: 'good.test',
      port: 443,
      servername: 'evil.test',
      insecure: true,
      send: plain('evil.test'),
      wait: 2500,
    },
  ]
  const seen = await watching(async () => stage.inside(steps, { spec: await spec(stage) }))
  assert.match(seen.value.result('control').value.received, /^HTTP\/1\.1 200/, 'control')
  for (const step of steps.slice(1)) {
    const got = seen.value.result(step.name)
    assert.ok(!got.ok || /^(HTTP\/1\.1 4|$)/.test(got.value.received), `${step.name}: ${got.value?.received}`)
  }
  assert.deepEqual(
    good.requests.slice(before).map((request) => request.url),
    ['/n20-control'],
  )
  assert.equal(seen.evil, 0)
  const status = seen.value.result('other host').value?.received.slice(9, 12)
  return `${steps.length - 1} mismatches refused (${status})`
})

/** A TLS handshake record whose first message is a ServerHello; an alert is none. */
const isServerHello = (received: string): boolean =>
  received.charCodeAt(0) === 0x16 && received.charCodeAt(5) === 2

attack('N-21', 'refuses an unreadable server name', async (as) => {
  const { good } = await world(null)
  const stage = await makeStage(as)
  const hellos: Record<string, Buffer> = {
    'two names': clientHello([serverName(['good.test', 'evil.test'])]),
    'two extensions': clientHello([serverName(['good.test']), serverName(['evil.test'])]),
    'wrong type': clientHello([serverName(['good.test'], 7)]),
    'empty name': clientHello([serverName([''])]),
    'garbage extension': clientHello([extension(0, Buffer.from([0xff, 0xff, 0xff]))]),
    garbage: Buffer.from([0x16, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0xff]),
    truncated: clientHello([serverName(['good.test'])]).subarray(0, 60),
    missing: clientHello([]),
  }
  const before = good.connections()
  const steps = Object.entries(hellos).map(([name, hello]) => ({
    name,
    op: 'tcp',
    host: 'good.test',
    port: 443,
    send: hello.toString('latin1'),
    wait: 3000,
  }))
  const inside = await stage.inside([steps], { spec: await spec(stage) })
  await settle()
  // Before the control, which does connect.
  assert.equal(good.connections(), before, 'an unreadable hello led to a connection')
  for (const { name } of steps)
    assert.ok(!isServerHello(inside.result(name).value?.received ?? ''), `${name} got a ServerHello`)
  const control = await stage.inside(
    [raw('control', head('GET /n21 HTTP/1.1\nhost: good.test\nconnection: close\n\n'))],
    { spec: await spec(stage) },
  )
  assert.match(control.result('control').value.received, /^HTTP\/1\.1 200/, 'control')
  return `${steps.length} hellos refused`
})
