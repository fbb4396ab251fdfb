/** Squid with OpenSSL as an inspecting proxy: ssl-bump, upstream certificates verified, access log on. */
import { spawn } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { debianLibraries, debianProgram, sh } from '../cache.ts'
import type { Bench } from '../figure.ts'

export interface Proxy {
  /** `http://…` */
  readonly url: string
  /** PEM file of the CA that it signs with. */
  readonly ca: string
  /** The process whose memory counts, with its children. */
  readonly pid: number
}

/** Starts squid for upstreams under `upstreamCa`. */
export async function startSquid(bench: Bench, upstreamCa: string): Promise<Proxy> {
  const program = await debianProgram('squid', 'squid-openssl')
  const dir = join(bench.scratch, 'squid')
  mkdirSync(dir)
  // Started by root it runs as `proxy`.
  chmodSync(dir, 0o777)
  const ca = join(dir, 'ca.pem')
  await makeCa(ca)
  const helper = join(program, '../../lib/squid/security_file_certgen')
  const env = { ...process.env, LD_LIBRARY_PATH: debianLibraries('squid-openssl') }
  await sh(helper, ['-c', '-s', join(dir, 'certs'), '-M', '4MB'])
  await sh('chmod', ['-R', '777', dir])
  const port = await freePort()
  const config = join(dir, 'squid.conf')
  writeFileSync(config, configuration(dir, port, ca, helper, upstreamCa))
  const child = spawn(program, ['-N', '-f', config], { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let complaint = ''
  child.stderr.on('data', (text: Buffer) => (complaint += text.toString()))
  child.on('error', (error) => (complaint += error.message))
  bench.defer(() => child.kill('SIGKILL'))
  for (let waited = 0; waited < 10_000 && child.exitCode === null; waited += 50) {
    if (await answers(port)) return { url: `http://127.0.0.1:${port}`, ca, pid: child.pid ?? -1 }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  const lines = complaint.trim().split('\n')
  throw new Error(
    `squid did not start: ${lines.find((line) => line.includes('FATAL')) ?? lines.at(-1) ?? ''}`,
  )
}

const configuration = (dir: string, port: number, ca: string, helper: string, upstreamCa: string): string => `
http_port 127.0.0.1:${port} ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=4MB tls-cert=${ca}
sslcrtd_program ${helper} -s ${join(dir, 'certs')} -M 4MB
sslcrtd_children 2
acl first at_step SslBump1
ssl_bump peek first
ssl_bump bump all
client_persistent_connections on
server_persistent_connections on
sslproxy_session_cache_size 2 MB
sslproxy_session_ttl 300
tls_outgoing_options cafile=${upstreamCa}
http_access allow all
cache deny all
cache_mem 8 MB
pid_filename ${join(dir, 'pid')}
access_log stdio:${join(dir, 'access.log')}
cache_log ${join(dir, 'cache.log')}
coredump_dir ${dir}
client_request_buffer_max_size 8 MB
pinger_enable off
shutdown_lifetime 0 seconds
`

/** P-256, key and certificate in one file, as squid takes them. */
async function makeCa(file: string): Promise<void> {
  const [key, cert] = [`${file}.key`, `${file}.crt`]
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  await sh('openssl', [
    'req',
    '-x509',
    ...curve,
    '-subj',
    '/CN=bench squid CA',
    '-days',
    '2',
    '-keyout',
    key,
    '-out',
    cert,
  ])
  writeFileSync(file, readFileSync(key, 'utf8') + readFileSync(cert, 'utf8'))
}

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
