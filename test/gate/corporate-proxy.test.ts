/** Where the organisation's own proxy is the only way out. */
import assert from 'node:assert/strict'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { after, test } from 'node:test'
import { startUpstream } from '../fixtures/servers/upstream.ts'
import { planOf, rule, startBench, testCa } from './harness.ts'

const upstream = await startUpstream({
  tls: testCa.issue(['api.example.com', 'tunnel.example.com']),
  http2: true,
})
const heads: string[] = []
/** Answers CONNECT with `answer`; tunnels everything to the one upstream. */
const proxy = createServer((socket: Socket) => {
  socket.on('error', () => undefined)
  socket.once('data', (bytes) => {
    const head = bytes.toString()
    heads.push(head)
    if (!head.startsWith('CONNECT') || head.includes('refused')) return socket.end('HTTP/1.1 407 No\r\n\r\n')
    const out = connect(upstream.port, '127.0.0.1')
    out.on('error', () => socket.destroy())
    socket.on('close', () => out.destroy())
    socket.write('HTTP/1.1 200 OK\r\n\r\n')
    return socket.pipe(out).pipe(socket)
  })
})
await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
const url = `http://us%65r:p%40ss@127.0.0.1:${(proxy.address() as AddressInfo).port}`
let asked = 0
const bench = await startBench(
  planOf([
    rule({ host: 'api.example.com' }),
    rule({ host: 'tunnel.example.com', inspect: false }),
    rule({ host: 'refused.example.com' }),
    rule({ host: '10.0.0.1' }),
    rule({ host: 'local.example.com', connect: { address: '127.0.0.1', port: upstream.port } }),
  ]),
  {
    upstream: { proxy: url, roots: [] },
    resolve: async () => {
      asked++
      return ['127.0.0.1']
    },
  },
)
after(async () => {
  await bench.close()
  await upstream.close()
  proxy.close()
})

for (const version of ['--http1.1', '--http2'])
  test(`${version}: requests go through it, by name, with its credentials`, async () => {
    assert.equal((await bench.curl('https://api.example.com/', version)).status, 200)
    assert.match(
      heads.at(-1) ?? '',
      /^CONNECT api\.example\.com:443 HTTP\/1\.1\r\nHost: api\.example\.com:443\r\n/,
    )
    assert.match(heads.at(-1) ?? '', /Proxy-Authorization: Basic dXNlcjpwQHNz\r\n/)
    assert.equal(asked, 0)
    assert.match(bench.of('net.open').at(-1)?.address ?? '', /^proxy:127\.0\.0\.1:\d+$/)
  })

test('tunnels without inspection go through it as well', async () => {
  const { status } = await bench.curl('https://tunnel.example.com/', '-k')
  assert.equal(status, 200)
})

test('its refusal is a 502, and no other way is tried', async () => {
  const { status, body } = await bench.curl('https://refused.example.com/')
  assert.equal(status, 502)
  assert.match(body, /upstream\.proxy-credentials.*wants other credentials/)
  assert.equal(asked, 0)
})

test('a private address is refused here, whatever the proxy would do', async () => {
  bench.aim('10.0.0.1', 443)
  const before = heads.length
  assert.match((await bench.curl('https://10.0.0.1/')).body, /address-forbidden/)
  assert.equal(heads.length, before)
})

test('a pinned address is dialled directly', async () => {
  const before = heads.length
  const { body } = await bench.curl('https://local.example.com/')
  assert.match(body, /upstream\.certificate/)
  assert.equal(heads.length, before)
})
