/** Real servers of databases, each in a directory of its own, run by an ordinary user on loopback. */
import { execFileSync, spawn } from 'node:child_process'
import { chownSync, existsSync, globSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { native } from '../../src/lib/native.ts'
import { eventually } from './processes.ts'
import { account, identity } from './users.ts'

export interface Database {
  readonly port: number
  /** PEM of the CA of its certificate; empty without TLS. */
  readonly ca: string
}

/** Debian keeps the server's programs out of PATH, a directory a version. */
const POSTGRES = globSync('/usr/lib/postgresql/*/bin').toSorted().at(-1)
/** Redis is one program; Debian's redis-tools has it under another of its names, without a service. */
const REDIS = ['/usr/bin/redis-server', '/usr/bin/redis-check-rdb'].find((path) => existsSync(path))

/** The reason why there is no server of these, or null. */
export const postgresMissing =
  POSTGRES && existsSync(join(POSTGRES, 'initdb')) ? null : 'PostgreSQL is not installed'
export const redisMissing = REDIS ? null : 'Redis is not installed'

/** PostgreSQL with a user `dev` who needs no password; TLS is offered with a certificate for `host`. */
export async function startPostgres(host: string): Promise<Database> {
  const bin = POSTGRES ?? ''
  const dir = place('postgres')
  const data = join(dir, 'data')
  const options = { ...identity('user'), cwd: dir, stdio: 'pipe' } as const
  const set = [
    '--no-sync',
    '--auth=trust',
    '--username=dev',
    '--encoding=UTF8',
    '--locale=C',
    '--no-instructions',
  ]
  execFileSync(join(bin, 'initdb'), ['-D', data, ...set], options)
  const ca = writeCertificate(data, host)
  const port = await freePort()
  const settings = ['listen_addresses=127.0.0.1', `unix_socket_directories=${dir}`, 'ssl=on', 'fsync=off']
  const args = ['-D', data, '-p', String(port), ...settings.flatMap((one) => ['-c', one])]
  await serve(join(bin, 'postgres'), 'postgres', args, dir, port)
  return { port, ca }
}

/** Redis that keeps nothing. */
export async function startRedis(): Promise<Database> {
  const dir = place('redis')
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', dir]
  await serve(REDIS ?? '', 'redis-server', args, dir, port)
  return { port, ca: '' }
}

function place(name: string): string {
  const dir = mkdtempSync(join(tmpdir(), `ambit-${name}-`))
  own(dir)
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  return dir
}

function own(path: string): void {
  const { uid, gid } = account('user')
  if (process.getuid?.() === 0) chownSync(path, uid, gid)
}

function writeCertificate(dir: string, host: string): string {
  const now = Math.floor(Date.now() / 1000)
  const ca = native().createCa('Ambit test database', now - 60, now + 86_400)
  const { cert, key } = native().createLeaf(ca, host, now - 60, now + 86_400)
  for (const [name, text] of Object.entries({ 'server.crt': cert, 'server.key': key })) {
    writeFileSync(join(dir, name), text, { mode: 0o600 })
    own(join(dir, name))
  }
  return ca.cert
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

async function serve(
  program: string,
  argv0: string,
  args: readonly string[],
  cwd: string,
  port: number,
): Promise<void> {
  const child = spawn(program, args, { ...identity('user'), cwd, argv0, stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text: Buffer) => (said += text))
  child.unref()
  // SIGQUIT is PostgreSQL's word for at once, children included.
  process.once('exit', () => child.kill(argv0 === 'postgres' ? 'SIGQUIT' : 'SIGKILL'))
  const up = await eventually(() => answers(port), 20_000)
  if (!up) throw new Error(`${argv0} does not answer: ${said.slice(-2000)}`)
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
