/** TLS that is odd on either side: certificates out of their time, protocols that were not agreed on, hellos with more in them. */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import type { AddressInfo, Socket } from 'node:net'
import { after, test } from 'node:test'
import { createServer, type TlsOptions } from 'node:tls'
import { native } from '../../src/lib/native.ts'
import { clientHello, ECH_GREASE, serverName } from '../support/client-hello.ts'
import { type Bench, planOf, rawTcp, rule, startBench, tlsTo } from './harness.ts'

const HOST = 'api.example.com'
const HOUR = 3600
const now = Math.floor(Date.now() / 1000)
const ca = native().createCa('Odd CA', now - 400 * HOUR, now + 400 * HOUR)
const closers: (() => unknown)[] = []
after(() => Promise.all(closers.map((close) => close())))

/** A gate in front of a TLS server with these options. */
async function inFrontOf(
  options: TlsOptions,
  inspect = true,
): Promise<{ bench: Bench; heard: () => string }> {
  let heard = ''
  const server = createServer(options, (socket: Socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => {
      heard += bytes.toString('latin1')
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello')
    })
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const connect = { address: '127.0.0.1', port: (server.address() as AddressInfo).port }
  const bench = await startBench(planOf([rule({ host: HOST, connect, ca: ca.cert, inspect })]))
  closers.push(
    () => bench.close(),
    () => server.close(),
  )
  return { bench, heard: () => heard }
}

const leaf = (from: number, to: number, host = HOST): { cert: string; key: string } =>
  native().createLeaf(ca, host, now + from * HOUR, now + to * HOUR)

const CERTIFICATES: Readonly<Record<string, readonly [TlsOptions, number]>> = {
  'valid now': [leaf(-1, 1), 200],
  'valid from tomorrow': [leaf(24, 48), 502],
  'valid until yesterday': [leaf(-48, -24), 502],
  'for a name below': [leaf(-1, 1, `x.${HOST}`), 502],
  'for a name above': [leaf(-1, 1, 'example.com'), 502],
  'for an address': [leaf(-1, 1, '127.0.0.1'), 502],
  'of TLS 1.1 at most': [
    { ...leaf(-1, 1), minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' },
    502,
  ],
}

for (const [what, [options, expected]] of Object.entries(CERTIFICATES))
  test(`a server with a certificate ${what}: ${expected}`, async () => {
    const { bench, heard } = await inFrontOf(options)
    const { status } = await bench.curl(`https://${HOST}/`, '--http1.1')
    assert.equal(status, expected)
    if (expected !== 200) assert.equal(heard(), '', 'it heard something')
  })

test('a tunnel without inspection goes to no server with a certificate from tomorrow', async () => {
  const { bench, heard } = await inFrontOf(leaf(24, 48), false)
  assert.notEqual((await bench.curl(`https://${HOST}/`, '--insecure')).status, 200)
  assert.equal(heard(), '')
})

test('what the gate presents is valid already, for clients with a slow clock too', async () => {
  const { bench } = await inFrontOf(leaf(-1, 1))
  const socket = await tlsTo(bench, HOST)
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  for (const text of [bench.gate.caPem, socket.getPeerX509Certificate()?.toString() ?? '']) {
    const certificate = new X509Certificate(text)
    assert.ok(Date.parse(certificate.validFrom) <= Date.now() - 50 * 60_000, certificate.validFrom)
    assert.ok(Date.parse(certificate.validTo) > Date.now())
  }
  socket.destroy()
})

test('a server that speaks another protocol than was agreed on is a 502', async () => {
  for (const ALPNProtocols of [['h2'], ['imap']]) {
    const { bench } = await inFrontOf({ ...leaf(-1, 1), ALPNProtocols })
    assert.equal((await bench.curl(`https://${HOST}/`, '--http1.1')).status, 502, ALPNProtocols[0])
  }
})

test('N-22: a hello with the ECH that browsers grease with is read like any other; its outer name decides', async () => {
  const { bench, heard } = await inFrontOf(leaf(-1, 1))
  const { addresses } = await bench.lookup(HOST)
  for (const [name, mismatches] of [
    [HOST, 0],
    ['evil.test', 1],
  ] as const) {
    bench.aim(addresses[0] ?? '', 443)
    await rawTcp(bench.ports.tcp, clientHello([serverName([name]), ECH_GREASE]))
    assert.equal(mismatched(bench), mismatches, name)
  }
  assert.ok(
    bench.of('net.denied').every(({ reason }) => reason !== 'tls.unreadable-hello'),
    'it was read',
  )
  assert.equal(heard(), '')
})

const mismatched = (bench: Bench): number =>
  bench.of('net.denied').filter(({ reason }) => reason === 'tls.name-mismatch').length

test('an address as server name is no name', async () => {
  const { bench, heard } = await inFrontOf(leaf(-1, 1))
  const { addresses } = await bench.lookup(HOST)
  for (const name of ['127.0.0.1', '::1', addresses[0] ?? '']) {
    bench.aim(addresses[0] ?? '', 443)
    await rawTcp(bench.ports.tcp, clientHello([serverName([name])]), 150)
  }
  assert.equal(heard(), '')
  assert.equal(mismatched(bench), 3)
})

test('a client that agrees on no protocol of ours ends in the handshake', async () => {
  const { bench, heard } = await inFrontOf(leaf(-1, 1))
  const socket = await tlsTo(bench, HOST, { ALPNProtocols: ['imap'] })
  const outcome = await new Promise<string>((resolve) => {
    socket.once('secureConnect', () => resolve('connected'))
    socket.once('error', (error) => resolve((error as { code?: string }).code ?? ''))
    socket.once('close', () => resolve('closed'))
  })
  assert.match(outcome, /NO_APPLICATION_PROTOCOL|closed|ECONNRESET/)
  assert.equal(heard(), '')
})
