import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { planOf, rawTcp, rawTls, rule, startBench, testCa, until } from './harness.ts'

const certificate = testCa.issue([
  'api.example.com',
  'other.example.com',
  'paths.example.com',
  'lower.example.com',
  '*.wild.example.com',
])
const upstream = await startUpstream({ tls: certificate, http2: true })
const plain = await startUpstream({ tls: null })
const connect = { address: '127.0.0.1', port: upstream.port }
const plan = planOf([
  rule({ host: 'api.example.com', connect }),
  rule({ host: 'other.example.com', connect }),
  rule({ host: 'paths.example.com', connect, paths: ['/v1/*'], methods: ['GET'] }),
  rule({ host: 'lower.example.com', connect, clearance: 'internal' }),
  rule({ host: '*.wild.example.com', connect }),
  rule({
    host: 'apt.example.com',
    ports: [80],
    plain: true,
    connect: { address: '127.0.0.1', port: plain.port },
  }),
])
const bench = await startBench(plan)
after(async () => {
  await bench.close()
  await Promise.all([upstream.close(), plain.close()])
})

/** Asserts twice (G-05): refused with `reason`, and nothing reached the server. */
async function refused(
  run: () => Promise<{ status: number; body: string }>,
  status: number,
  reason: string,
): Promise<void> {
  const before = upstream.requests.length + plain.requests.length
  const answer = await run()
  assert.equal(answer.status, status)
  const problem = JSON.parse(answer.body) as { reason: string; status: number; detail: string }
  assert.equal(problem.reason, reason)
  assert.equal(problem.status, status)
  assert.ok(bench.of('http.denied').some((fact) => fact.reason === reason))
  assert.equal(upstream.requests.length + plain.requests.length, before)
}

for (const version of ['--http1.1', '--http2']) {
  test(`${version}: an admitted request passes, with its connection and end recorded`, async () => {
    const { status, body } = await bench.curl('https://api.example.com/echo?q=1', version, '-d', 'hello')
    assert.equal(status, 200)
    const seen = JSON.parse(body) as { method: string; url: string; body: { bytes: number } }
    assert.deepEqual([seen.method, seen.url, seen.body.bytes], ['POST', '/echo?q=1', 5])
    const request = bench.of('http.request').at(-1)
    assert.equal(request?.path, '/echo?q=1')
    await until(() => bench.of('http.response').some((fact) => fact.request === request?.request))
    const open = bench.of('net.open').at(-1)
    assert.equal(open?.tls?.subject, 'CN=api.example.com')
    assert.match(open?.tls?.sha256 ?? '', /^[0-9a-f]{64}$/)
    assert.equal(open?.address, '127.0.0.1')
  })

  test(`N-01, N-04 ${version}: a host without a rule is a readable 403`, async () => {
    await refused(() => bench.curl('https://data.evil.invalid/x', version), 403, 'network.no-matching-rule')
  })

  test(`N-12 ${version}: another port of an allowed host is refused`, async () => {
    await refused(() => bench.curl('https://api.example.com:8443/', version), 403, 'network.port-not-allowed')
  })

  test(`N-20 ${version}: an authority that is not the connection’s is 421, even if it has a rule of its own`, async () => {
    await refused(
      () => bench.curl('https://api.example.com/', version, '-H', 'Host: other.example.com'),
      421,
      'http.misdirected',
    )
  })

  test(`N-34 ${version}: methods and paths are limited as the rule says`, async () => {
    assert.equal((await bench.curl('https://paths.example.com/v1/x', version)).status, 200)
    await refused(
      () => bench.curl('https://paths.example.com/v2/x', version),
      403,
      'network.path-not-allowed',
    )
    await refused(
      () => bench.curl('https://paths.example.com/v1/x', version, '-X', 'DELETE'),
      403,
      'network.method-not-allowed',
    )
    for (const path of ['/v1/../v2', '/v1/%2e%2e/v2', '/v1/a%2fb', '/v1//x', '/v1/a;b', '/v1/a%252fb'])
      await refused(
        () => bench.curl(`https://paths.example.com${path}`, version, '--path-as-is'),
        403,
        'network.path-spelling',
      )
  })

  test(`N-31 ${version}: a body on GET is refused`, async () => {
    await refused(
      () => bench.curl('https://api.example.com/', version, '-X', 'GET', '-d', 'hidden'),
      403,
      'http.bodyless-method-body',
    )
  })

  test(`N-30 ${version}: TRACE and unknown methods are refused`, async () => {
    await refused(
      () => bench.curl('https://api.example.com/', version, '-X', 'TRACE'),
      405,
      'http.method-unknown',
    )
    await refused(
      () => bench.curl('https://api.example.com/', version, '-X', 'PROPFIND'),
      405,
      'http.method-unknown',
    )
  })

  test(`${version}: an expectation that nobody knows is refused, on record`, async () => {
    await refused(
      () => bench.curl('https://api.example.com/', version, '-H', 'Expect: a-miracle'),
      417,
      'http.expectation-unknown',
    )
  })

  test(`N-03 ${version}: DNS over HTTPS is refused`, async () => {
    const message = ['-H', 'Accept: application/dns-message']
    await refused(
      () => bench.curl('https://api.example.com/q', version, ...message),
      403,
      'http.dns-over-https',
    )
    await refused(() => bench.curl('https://api.example.com/x?dns=AAAB', version), 403, 'http.dns-over-https')
  })

  test(`${version}: a label above the destination’s clearance keeps everything in`, async () => {
    assert.equal((await bench.curl('https://lower.example.com/', version)).status, 200)
    bench.state.label = 'confidential'
    await refused(() => bench.curl('https://lower.example.com/', version), 403, 'network.clearance-exceeded')
    bench.state.label = 'public'
  })

  test(`N-25 ${version}: routing headers are not passed on`, async () => {
    const odd = [
      'X-Upstream-Https-Proxy: http://evil',
      'X-Forwarded-Host: evil',
      'X_Forwarded_Host: evil',
      'X-Unix-Socket: /s',
      'Via: 1.1 x',
      'X-HTTP-Method-Override: DELETE',
      'X-Kept: yes',
    ]
    const { body } = await bench.curl(
      'https://api.example.com/echo',
      version,
      ...odd.flatMap((line) => ['-H', line]),
    )
    const { headers } = JSON.parse(body) as { headers: Record<string, string> }
    const unexpected = Object.keys(headers).filter((name) => /upstream|forward|unix|via|override/i.test(name))
    assert.deepEqual(unexpected, [])
    assert.equal(headers['x-kept'], 'yes')
  })

  test(`N-26 ${version}: Alt-Svc does not come back, and a redirect is decided anew`, async () => {
    const { body } = await bench.curl('https://api.example.com/alt-svc', version, '-i')
    assert.match(body, /x-kept/i)
    assert.doesNotMatch(body, /alt-svc/i)
    const to = 'https://paths.example.com/v1/x'
    bench.aim((await bench.lookup('api.example.com')).addresses[0] ?? '', 443)
    const { status, body: located } = await bench.curl(
      `https://api.example.com/redirect?to=${to}`,
      version,
      '-i',
    )
    assert.equal(status, 302)
    assert.match(located, /v1\/x/)
  })

  test(`${version}: several cookies set stay several`, async () => {
    const { body } = await bench.curl('https://api.example.com/cookies', version, '-i')
    assert.equal(body.match(/^set-cookie: /gim)?.length, 2)
  })
}

test('N-05: a name that looks like data stays refused when it is dialled, though a wildcard covers it', async () => {
  assert.equal((await bench.curl('https://cdn.wild.example.com/')).status, 200)
  await refused(
    () => bench.curl(`https://${'deadbeef'.repeat(6)}.wild.example.com/`),
    403,
    'dns.wildcard-limit',
  )
})

test('N-08: upper case and a root dot in the authority mean the same host, sent on in one form', async () => {
  const answer = await rawTls(
    bench,
    'api.example.com',
    'GET /echo HTTP/1.1\r\nHost: API.Example.COM.\r\n\r\n',
  )
  assert.match(answer, /^HTTP\/1\.1 200/)
  assert.equal(upstream.requests.at(-1)?.headers.host, 'api.example.com')
})

test('plain HTTP passes only where the rule says so', async () => {
  assert.equal((await bench.curl('http://apt.example.com/echo')).status, 200)
  await refused(() => bench.curl('http://api.example.com:443/'), 403, 'network.plain-not-allowed')
  await refused(() => bench.curl('http://evil.invalid/'), 403, 'network.no-matching-rule')
})

test('N-23: what is neither TLS nor HTTP is closed', async () => {
  const before = upstream.connections
  bench.aim((await bench.lookup('api.example.com')).addresses[0] ?? '', 443)
  for (const bytes of ['\0\0\0\0', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', '\x05\x01\x00'])
    assert.equal(await rawTcp(bench.ports.tcp, bytes), '')
  // Refused in its own words, by the gate itself.
  assert.match(
    await rawTcp(bench.ports.tcp, 'SSH-2.0-OpenSSH_9\r\n'),
    /^SSH-2\.0-Ambit\r\n.*SSH does not pass/s,
  )
  assert.equal(upstream.connections, before)
  for (const reason of ['net.unknown-protocol', 'net.protocol-ssh'])
    assert.ok(bench.of('net.denied').some((fact) => fact.reason === reason))
})

test('N-09, N-17: an address without a rule is refused, whatever it is', async () => {
  for (const address of ['93.184.216.34', '169.254.169.254', '10.0.0.1'])
    await refused(() => bench.curl(`https://${address}/`, '--http1.1'), 403, 'network.no-matching-rule')
})

test('N-20: a server name that is not the name looked up is 421', async () => {
  const { addresses } = await bench.lookup('api.example.com')
  // As if a client had looked up one name and asked for another at its address.
  const before = upstream.requests.length
  bench.aim(addresses[0] ?? '', 443)
  const { curl } = await import('./harness.ts')
  const to = `other.example.com:443:127.0.0.1:${bench.ports.tcp}`
  const { status, body } = await curl('--cacert', bench.ca, '--connect-to', to, 'https://other.example.com/')
  assert.equal(status, 421)
  assert.equal((JSON.parse(body) as { reason: string }).reason, 'tls.name-mismatch')
  assert.equal(upstream.requests.length, before)
})

test('a client that distrusts the CA is a clear event', async () => {
  await bench.curl('https://api.example.com/', '--cacert', '/etc/ssl/certs/ca-certificates.crt')
  await until(() => bench.of('net.denied').some((fact) => fact.reason === 'tls.client-distrusts-ca'))
  await bench.curl(
    'https://api.example.com/',
    '--tls-max',
    '1.2',
    '--cacert',
    '/etc/ssl/certs/ca-certificates.crt',
  )
  await until(
    () => bench.of('net.denied').filter((fact) => fact.reason === 'tls.client-distrusts-ca').length === 2,
  )
})

test('N-35: a refused host stays refused after an allowed one, on the same gate', async () => {
  await refused(() => bench.curl('https://evil.invalid/'), 403, 'network.no-matching-rule')
  assert.equal((await bench.curl('https://api.example.com/')).status, 200)
  await refused(() => bench.curl('https://evil.invalid/'), 403, 'network.no-matching-rule')
})
