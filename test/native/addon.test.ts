/** The napi addon on bad and good input: the release build aborts on panic, so a crash here would take the session. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import {
  closeSync,
  fstatSync,
  mkdtempSync,
  readdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { createServer, connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import tls from 'node:tls'
import { native } from '../../src/lib/native.ts'

const lib = native()
const now = Math.floor(Date.now() / 1000)
const ca = lib.createCa('Ambit session test', now - 60, now + 3600)
const fdOf = (socket: unknown): number => (socket as { _handle: { fd: number } })._handle.fd

test('passes descriptors with one message, close-on-exec', async () => {
  const [a, b] = lib.socketpair()
  const file = openSync('/dev/null', 'r')
  lib.sendFds(a, '{"fds":["x","y"]}', [file, a])
  const got = await lib.receiveFds(b, 1000)
  assert.equal(got.data, '{"fds":["x","y"]}')
  assert.equal(got.fds.length, 2)
  assert.equal(readlinkSync(`/proc/self/fd/${got.fds[0]}`), '/dev/null')
  for (const fd of [...got.fds, a, b]) {
    assert.match(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'), /flags:\s+02\d{6}/, 'O_CLOEXEC')
  }
  for (const fd of [file, a, b, ...got.fds]) closeSync(fd)
})

test('waits for a message that comes later, and no longer than asked', async () => {
  const [a, b] = lib.socketpair()
  const later = lib.receiveFds(b, 2000)
  setTimeout(() => lib.sendFds(a, 'late', []), 30)
  assert.equal((await later).data, 'late')
  await assert.rejects(lib.receiveFds(b, 20), /timed out/)
  closeSync(a)
  await assert.rejects(lib.receiveFds(b, 1000), /other side closed/)
  closeSync(b)
})

test('a socket that is closed while it waits is not confused with the next descriptor of its number', async () => {
  const [a, b] = lib.socketpair()
  const pending = lib.receiveFds(b, 2000)
  closeSync(b)
  const [c, d] = lib.socketpair()
  lib.sendFds(c, 'to the stranger', [])
  lib.sendFds(d, 'to the stranger', [])
  lib.sendFds(a, 'to the owner', [])
  assert.equal((await pending).data, 'to the owner')
  for (const fd of [a, c, d]) closeSync(fd)
})

test('a refused message leaks no descriptor', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-leak-'))
  const marked = join(dir, 'marked')
  const held = () => readdirSync('/proc/self/fd').filter((fd) => linkOf(fd) === marked).length
  const [a, b] = lib.socketpair()
  // 40 descriptors in one message, from Python, which has no limit of 16: the control buffer here is too small for them.
  const code =
    'import socket,array;s=socket.socket(fileno=3);f=array.array("i",[1]*40);s.sendmsg([b"x"],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,f)])'
  const child = spawn('python3', ['-c', code], {
    stdio: ['ignore', openSync(marked, 'w'), 'inherit', a],
  })
  const before = held()
  await assert.rejects(lib.receiveFds(b, 5000), /too long/)
  await new Promise((resolve) => child.once('exit', resolve))
  assert.equal(held(), before)
  closeSync(a)
  closeSync(b)
  rmSync(dir, { recursive: true })
})

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return '' // the descriptor that read the directory
  }
}

test('bad descriptors and arguments are errors, never a crash', async () => {
  for (const fd of [-1, 9999, 2 ** 31 - 1]) {
    assert.throws(() => lib.sendFds(fd, 'x', []), /Bad file descriptor/)
    assert.throws(() => lib.tryLock(fd), /Bad file descriptor/)
    assert.throws(() => lib.peerCredentials(fd), /Bad file descriptor/)
    assert.throws(() => lib.originalDestination(fd), /Bad file descriptor/)
    assert.throws(() => void lib.receiveFds(fd, 10), /Bad file descriptor/)
  }
  const [a, b] = lib.socketpair()
  assert.throws(() => lib.sendFds(a, 'x', [9999]), /Bad file descriptor/)
  assert.throws(() => lib.sendFds(a, 'x', Array<number>(17).fill(0)), /at most 16/)
  assert.throws(() => lib.sendFds(a, 'x'.repeat(70_000), []), /65536/)
  assert.throws(() => lib.sendFds(a, '', []), /want 1/)
  assert.throws(() => lib.originalDestination(a), /not IP|not supported/)
  const file = openSync('/dev/null', 'r')
  assert.throws(() => lib.peerCredentials(file), /non-socket/)
  for (const wrong of [undefined, null, 'x', {}]) assert.throws(() => lib.tryLock(wrong as never))
  for (const fd of [a, b, file]) closeSync(fd)
})

test("the credentials of a peer are the kernel's", () => {
  const [a, b] = lib.socketpair()
  assert.deepEqual(lib.peerCredentials(b), {
    pid: process.pid,
    uid: process.getuid?.(),
    gid: process.getgid?.(),
  })
  closeSync(a)
  closeSync(b)
})

test('a lock holds between open descriptions and dies with its own', () => {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-lock-'))
  const [first, second] = [openSync(join(dir, 'l'), 'w'), openSync(join(dir, 'l'), 'w')]
  assert.equal(lib.tryLock(first), true)
  assert.equal(lib.tryLock(second), false)
  closeSync(first)
  assert.equal(lib.tryLock(second), true)
  closeSync(second)
  rmSync(dir, { recursive: true })
})

test('without a redirect the destination is the local address, IPv4 in its own form', async () => {
  for (const [listen, dial, shown] of [
    ['127.0.0.1', '127.0.0.1', '127.0.0.1'],
    ['::', '127.0.0.1', '127.0.0.1'],
    ['::1', '::1', '::1'],
  ] as const) {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, listen, resolve))
    const port = (server.address() as { port: number }).port
    const client = connect(port, dial)
    const accepted = await new Promise<Socket>((resolve) => server.once('connection', resolve))
    assert.deepEqual(lib.originalDestination(fdOf(accepted)), { address: shown, port })
    client.destroy()
    accepted.destroy()
    server.close()
  }
})

test('the CA may sign leaves and nothing below them', () => {
  const cert = new X509Certificate(ca.cert)
  assert.equal(cert.ca, true)
  assert.equal(cert.subject, 'CN=Ambit session test')
  const text = spawnSync('openssl', ['x509', '-noout', '-text'], { input: ca.cert, encoding: 'utf8' }).stdout
  if (!text) return
  assert.match(text, /X509v3 Basic Constraints: critical\s+CA:TRUE, pathlen:0/)
  assert.match(text, /X509v3 Key Usage: critical\s+Certificate Sign\n/)
  assert.match(text, /prime256v1/)
})

test('leaves name one host, for servers only, and chain to the CA', async () => {
  const leaf = lib.createLeaf(ca, 'api.example.com', now - 60, now + 3600)
  const cert = new X509Certificate(leaf.cert)
  assert.equal(cert.subjectAltName, 'DNS:api.example.com')
  assert.equal(cert.ca, false)
  assert.ok(
    cert.checkIssued(new X509Certificate(ca.cert)) && cert.verify(new X509Certificate(ca.cert).publicKey),
  )
  assert.ok(cert.checkPrivateKey(createPrivateKey(leaf.key)))
  assert.deepEqual(cert.keyUsage, ['1.3.6.1.5.5.7.3.1'])
  assert.equal(await handshake(leaf, 'api.example.com'), 'ok')
  assert.match(await handshake(leaf, 'other.example.com'), /ERR_TLS_CERT_ALTNAME_INVALID/)
  const foreign = lib.createCa('Ambit session test', now - 60, now + 3600)
  assert.match(
    await handshake(lib.createLeaf(foreign, 'api.example.com', now - 60, now + 60), 'api.example.com'),
    /signature|self.signed|UNABLE/i,
  )
})

test('addresses become IP names, long names still get a subject', () => {
  const san = (host: string) =>
    new X509Certificate(lib.createLeaf(ca, host, now, now + 9).cert).subjectAltName
  assert.equal(san('203.0.113.9'), 'IP Address:203.0.113.9')
  assert.equal(san('2001:db8::1'), 'IP Address:2001:DB8:0:0:0:0:0:1')
  const long = `${'a'.repeat(60)}.${'b'.repeat(60)}.example`
  assert.equal(san(long), `DNS:${long}`)
})

test('no certificate for nonsense', () => {
  for (const host of ['', 'é.example', 'x'.repeat(254)])
    assert.throws(() => lib.createLeaf(ca, host, now, now + 9), /createLeaf/)
  for (const [from, to] of [
    [-1, 9],
    [now, 2 ** 53 - 1],
    [1e20, 9],
  ] as const)
    assert.throws(() => lib.createLeaf(ca, 'a', from, to), /time out of range/)
  assert.throws(() => lib.createLeaf({ cert: 'x', key: 'y' }, 'a', now, now + 9), /createLeaf/)
  assert.throws(() => lib.createLeaf({ cert: ca.key, key: ca.cert }, 'a', now, now + 9))
})

test('a leaf costs less than ten milliseconds', () => {
  const times = Array.from({ length: 50 }, (_, index) => {
    const start = performance.now()
    lib.createLeaf(ca, `h${index}.example.com`, now, now + 9)
    return performance.now() - start
  }).toSorted((a, b) => a - b)
  assert.ok((times[25] ?? 99) < 10, `median ${times[25]} ms`)
})

/** One TLS handshake against the session CA; `ok` or the error's code. */
async function handshake(leaf: { cert: string; key: string }, servername: string): Promise<string> {
  const server = tls.createServer({ cert: leaf.cert, key: leaf.key }, (socket) => socket.end())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  return new Promise((resolve) => {
    const client = tls.connect({ port, host: '127.0.0.1', servername, ca: ca.cert }, () => finish('ok'))
    const finish = (result: string): void => {
      client.destroy()
      server.close()
      resolve(result)
    }
    client.once('error', (error: NodeJS.ErrnoException) => finish(`${error.code} ${error.message}`))
  })
}

test('Rego: values, undefined, parse errors with their place, and a limit in time', () => {
  const Engine = lib.RegoEngine
  const engine = new Engine()
  engine.addPolicy(
    'a.rego',
    'package a.b\nimport rego.v1\ndefault allow := false\nallow if input.x == data.y\nu if input.z\ns contains 1\nf(x) := x + 1\n',
  )
  engine.addDataJson('{"y": 1}')
  assert.deepEqual(engine.rules(), ['data.a.b.allow', 'data.a.b.f', 'data.a.b.s', 'data.a.b.u'])
  assert.deepEqual(
    [engine.evalRule('data.a.b.allow', '{"x":1}'), engine.evalRule('data.a.b.allow', '{"x":2}')],
    ['true', 'false'],
  )
  assert.equal(engine.evalRule('data.a.b.u', '{}'), null)
  assert.throws(() => engine.evalRule('data.a.b.nothing', '{}'), /not a valid rule path/)
  assert.throws(() => engine.evalRule('data.a.b.u', '{'), /rego/)
  assert.throws(() => engine.addPolicy('bad.rego', 'package a\nx if {{'), /bad\.rego:2:8/)
  assert.throws(() => engine.addDataJson('{"y": 2}'), /rego/)
  // The parser's time doubles with each level: bounded before it starts.
  for (const [open, close] of [
    ['[', ']'],
    ['{', '}'],
    ['{"a":', '}'],
  ] as const) {
    const nest = (levels: number) => `package d\nx := ${open.repeat(levels)}1${close.repeat(levels)}`
    assert.throws(() => engine.addPolicy('deep.rego', nest(20_000)), /deep\.rego:2:1\nerror: brackets nested/)
    new Engine().addPolicy('fine.rego', nest(8))
  }
  new Engine().addPolicy(
    'text.rego',
    `package t\n# ${'['.repeat(50)}\nx := "${'['.repeat(50)}\\"[["\ny := \`${'{'.repeat(50)}\``,
  )
  assert.throws(() => engine.evalRule('data.a.b.u', `${'['.repeat(200_000)}`), /rego/)
})

test('a file written through a received descriptor is the same file', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'ambit-fd-'))
  const [a, b] = lib.socketpair()
  const file = openSync(join(dir, 'f'), 'w')
  lib.sendFds(a, 'f', [file])
  const { fds } = await lib.receiveFds(b, 1000)
  const [received = -1] = fds
  assert.equal(fstatSync(received).ino, fstatSync(file).ino)
  writeSync(received, 'through')
  assert.equal(readFileSync(join(dir, 'f'), 'utf8'), 'through')
  for (const fd of [a, b, file, received]) closeSync(fd)
  rmSync(dir, { recursive: true })
})
