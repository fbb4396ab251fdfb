/** Child of fds.test.ts: a gate on four inherited descriptors; tells what a client sees. */
import { connect } from 'node:tls'
import { createGate } from '../../src/gate/gate.ts'
import { dnsQuery, readDnsAnswer } from '../fixtures/servers/dns-message.ts'
import { ask, planOf, rule } from './harness.ts'

const [tcp = 0, dns = 0, dnsTcp = 0, proxy = 0] = process.argv.slice(2).map(Number)
const gate = await createGate({
  plan: planOf([rule({ host: 'api.example.com' }), rule({ host: '127.0.0.1', ports: [1] })]),
  secrets: new Map(),
  placeholders: new Map(),
  record: () => undefined,
  barrier: async () => undefined,
  state: () => ({ label: 'public', stopped: null }),
  upstream: { proxy: null, roots: [] },
  resolve: async () => [],
})
const ports = await gate.listen({ tcp, dns, dnsTcp, proxy })
const { addresses } = readDnsAnswer(await ask(ports.dns, dnsQuery('api.example.com')))
// Nothing was redirected: the original destination is the listening socket's own address, for which no rule is.
const socket = connect({ host: '127.0.0.1', port: ports.tcp, ca: gate.caPem })
let answer = ''
socket.on('data', (bytes: Buffer) => (answer += bytes.toString()))
socket.write(`GET / HTTP/1.1\r\nHost: 127.0.0.1:${ports.tcp}\r\nConnection: close\r\n\r\n`)
await new Promise((resolve) => socket.once('close', resolve))
process.stdout.write(JSON.stringify({ ports, addresses, answer }))
await gate.close(0)
