/**
 * Runs a list of attempts and prints what came of each. The same file runs inside a session and outside it, so that
 * every refusal has its positive control. Plain JavaScript without dependencies: any Node runs it, and
 * CommonJS, which starts a second earlier than a module where the machine is emulated.
 *
 *   node inside.cjs STEPS.json PROBE [TIMES]   →  one line, `AMBIT-RESULTS {"name": {"ok": true, …}, …}`
 *
 * A step is {name, op, …}; a list of steps in the list runs at the same time. A result is {ok: true, value} or
 * {ok: false, error: CODE, text}.
 */
const fs = require('node:fs')

/** Loaded with its first use: where a kernel is emulated, each module costs a tenth of a second. */
const lazily = (name) => new Proxy({}, { get: (_, key) => require(name)[key] })
const children = lazily('node:child_process')
const crypto = lazily('node:crypto')
const dgram = lazily('node:dgram')
const dns = lazily('node:dns')
const http = lazily('node:http')
const https = lazily('node:https')
const net = lazily('node:net')
const os = lazily('node:os')
const timers = lazily('node:timers/promises')
const tls = lazily('node:tls')

const [stepsFile, probe, times = '1'] = process.argv.slice(2)
/** How much longer than on the host's own kernel a step may take that says nothing itself. */
const PATIENCE = Number(times)
const steps = JSON.parse(fs.readFileSync(stepsFile, 'utf8'))
const LIMIT = 64 * 1024

const OPS = {
  read: ({ path }) => fs.readFileSync(path, 'latin1').slice(0, LIMIT),
  write: ({ path, text = 'written' }) => fs.writeFileSync(path, text),
  append: ({ path, text = 'appended' }) => fs.appendFileSync(path, text),
  create: ({ path, text = 'created' }) => fs.writeFileSync(path, text, { flag: 'wx' }),
  truncate: ({ path }) => fs.truncateSync(path, 0),
  mkdir: ({ path }) => fs.mkdirSync(path),
  rmdir: ({ path }) => fs.rmdirSync(path),
  unlink: ({ path }) => fs.unlinkSync(path),
  rename: ({ from, to }) => fs.renameSync(from, to),
  link: ({ from, to }) => fs.linkSync(from, to),
  symlink: ({ target, path }) => fs.symlinkSync(target, path),
  chmod: ({ path, mode }) => fs.chmodSync(path, mode),
  list: ({ path }) => fs.readdirSync(path).sort(),
  stat: ({ path }) => {
    const { mode, size, uid, gid, nlink, rdev } = fs.lstatSync(path)
    return { mode, size, uid, gid, nlink, rdev }
  },
  readlink: ({ path }) => fs.readlinkSync(path),
  env: () => ({ ...process.env }),
  status: () => fs.readFileSync('/proc/self/status', 'utf8'),
  fds: () => openDescriptors(),
  interfaces: () => os.networkInterfaces(),
  pid: () => process.pid,
  sleep: ({ ms }) => timers.setTimeout(ms),
  /** Waits until something listens on a port of loopback: how long a program takes to start is not what is tested. */
  listening: ({ port, timeout = 20_000 }) => listening(port, Date.now() + timeout),
  devices: () => deviceNodes('/dev'),
  sockets: ({ roots }) => roots.flatMap((root) => socketsBelow(root, 0)),
  probe: ({ args, timeout }) => command([probe, ...args], { timeout }).then(({ stdout }) => stdout.trim()),
  sh: ({ cmd, timeout, env }) => command(['/bin/sh', '-c', cmd], { timeout, env }),
  exec: ({ argv, timeout, env, cwd }) => command(argv, { timeout, env, cwd }),
  /** Leaves a process behind on purpose. */
  orphan: ({ argv }) => {
    const child = children.spawn(argv[0], argv.slice(1), { detached: true, stdio: 'ignore' })
    child.unref()
    return child.pid
  },
  lookup: ({ host }) => dns.promises.lookup(host, { all: true }),
  resolve: ({ host, type = 'A', server, timeout = 20_000 * PATIENCE }) => {
    const resolver = new dns.promises.Resolver({ timeout, tries: 1 })
    if (server) resolver.setServers([server])
    return resolver.resolve(host, type)
  },
  udp: ({ host, port, text = 'probe' }) => udp(host, port, text),
  unix: ({ path, send }) => exchange(() => net.connect({ path }), { send, wait: 700 }),
  tcp: (step) => exchange(() => net.connect({ host: step.host, port: step.port }), step),
  tls: (step) => exchange(() => tls.connect(tlsOptions(step)), step, 'secureConnect'),
  proxy: (step) => exchange(() => net.connect(proxyAddress()), step),
  /** TLS in a tunnel through the explicit proxy. */
  tunnel: (step) => tunnel(step).then((socket) => exchange(() => tls.connect({ ...tlsOptions(step), socket }), step, 'secureConnect')),
  http: (step) => request(step),
}

async function run(step) {
  try {
    return { ok: true, value: (await OPS[step.op](step)) ?? null }
  } catch (error) {
    return { ok: false, error: String(error.code ?? error.name), text: String(error.message).slice(0, 400) }
  }
}

function command(argv, { timeout = 10_000 * PATIENCE, env, cwd } = {}) {
  return new Promise((resolve, reject) => {
    const options = { timeout, killSignal: 'SIGKILL', maxBuffer: 1 << 26, encoding: 'latin1', cwd }
    const child = children.execFile(argv[0], argv.slice(1), { ...options, env: { ...process.env, ...env } }, done)
    child.stdin?.end()
    function done(error, stdout, stderr) {
      if (error && typeof error.code === 'string') reject(error)
      else
        resolve({
          code: error ? (error.code ?? null) : 0,
          signal: error?.signal ?? null,
          stdout: stdout.slice(0, LIMIT),
          stderr: stderr.slice(0, LIMIT),
        })
    }
  })
}

function openDescriptors() {
  return fs.readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [[Number(fd), fs.readlinkSync(`/proc/self/fd/${fd}`)]]
    } catch {
      // The descriptor of the listing itself is gone by now.
      return []
    }
  })
}

/** What lies at `path`, or null. Never from the listing: under a bind mount that names what is hidden below. */
function kind(path) {
  try {
    return fs.lstatSync(path)
  } catch {
    // Gone, or not for us.
    return null
  }
}

function below(folder) {
  try {
    return fs.readdirSync(folder).map((name) => `${folder === '/' ? '' : folder}/${name}`)
  } catch {
    // Unreadable: nothing to see.
    return []
  }
}

function deviceNodes(folder) {
  return below(folder).flatMap((path) => {
    const stats = kind(path)
    if (stats?.isDirectory()) return deviceNodes(path)
    return stats?.isCharacterDevice() || stats?.isBlockDevice() ? [path] : []
  })
}

function socketsBelow(folder, depth) {
  if (depth > 6 || /^\/(proc|sys)$/.test(folder)) return []
  return entriesBelow(folder).flatMap(({ path, plain }) => {
    const stats = plain ? null : kind(path)
    if (stats?.isSocket()) return [path]
    return stats?.isDirectory() ? socketsBelow(path, depth + 1) : []
  })
}

/** What the listing calls a file or a link needs no look of its own, unless something is mounted there. */
function entriesBelow(folder) {
  try {
    return fs.readdirSync(folder, { withFileTypes: true }).map((entry) => {
      const path = `${folder === '/' ? '' : folder}/${entry.name}`
      return { path, plain: (entry.isFile() || entry.isSymbolicLink()) && !mountPoints().has(path) }
    })
  } catch {
    // Unreadable: nothing to see.
    return []
  }
}

let mounted
const mountPoints = () =>
  (mounted ??= new Set(fs.readFileSync('/proc/self/mounts', 'utf8').split('\n').map((line) => line.split(' ')[1])))

function udp(host, port, text) {
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket(net.isIPv6(host) ? 'udp6' : 'udp4')
    const finish = (act, value) => {
      clearTimeout(timer)
      socket.close()
      act(value)
    }
    const timer = setTimeout(() => finish(reject, Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })), 1500)
    socket.on('error', (error) => finish(reject, error))
    socket.on('message', (data) => finish(resolve, data.toString('latin1')))
    socket.connect(port, host, (error) => {
      if (error) finish(reject, error)
      else socket.send(text, (failure) => failure && finish(reject, failure))
    })
  })
}

function tlsOptions({ host, port, servername, alpn, insecure = false }) {
  const name = servername === undefined ? host : servername
  return {
    host,
    port,
    ...(name === null || net.isIP(name) ? {} : { servername: name }),
    ...(alpn ? { ALPNProtocols: alpn } : {}),
    rejectUnauthorized: !insecure,
    checkServerIdentity: insecure ? () => undefined : tls.checkServerIdentity,
  }
}

/** The explicit proxy of a session; its port is the same in every one. A machine's loopback is its own. */
const isMachine = () => (os.networkInterfaces().eth0 ?? []).some(({ address }) => address === '192.0.0.2')
const proxyAddress = () => ({ host: isMachine() ? '192.0.0.1' : '127.0.0.1', port: 61_880 })

/** A CONNECT through the proxy of the environment; rejects with the status when it is not 200. */
function tunnel({ host, port }) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(proxyAddress(), () => socket.write(`CONNECT ${host}:${port} HTTP/1.1\r\nhost: ${host}:${port}\r\n\r\n`))
    socket.once('error', reject)
    socket.once('data', (data) => {
      const status = /^HTTP\/1\.1 (\d+)/.exec(data.toString('latin1'))?.[1]
      if (status === '200') resolve(socket)
      else reject(Object.assign(new Error(data.toString('latin1')), { code: `HTTP${status}` }))
    })
  })
}

/**
 * Opens a stream, sends `send` (latin1; a list is sent piece by piece with `gap` ms between) and collects what comes
 * until the peer closes or `wait` ms have passed without an end. `patience`: the same for the first byte, where one has
 * to come: on a busy machine that may take long.
 */
function exchange(open, { send, gap = 0, wait = 3000 * PATIENCE, patience = wait }, ready = 'connect') {
  return new Promise((resolve, reject) => {
    const chunks = []
    const started = Date.now()
    const socket = open()
    let connected = false
    let closed = null
    const finish = () => {
      clearTimeout(timer)
      socket.destroy()
      const received = Buffer.concat(chunks).toString('latin1').slice(0, LIMIT)
      resolve({ connected, closed, received, ms: Date.now() - started })
    }
    let timer = setTimeout(finish, patience)
    socket.on(ready, async () => {
      connected = true
      for (const piece of send === undefined ? [] : [send].flat()) {
        if (socket.destroyed || closed) return
        socket.write(Buffer.from(piece, 'latin1'))
        if (gap) await timers.setTimeout(gap)
      }
    })
    socket.on('data', (data) => {
      if (chunks.push(data) > 1 || patience === wait) return
      clearTimeout(timer)
      timer = setTimeout(finish, wait)
    })
    socket.on('end', () => {
      closed = 'end'
      finish()
    })
    socket.on('error', (error) => {
      if (!connected) {
        clearTimeout(timer)
        reject(error)
        return
      }
      closed = error.code ?? 'error'
      finish()
    })
  })
}

async function listening(port, until) {
  const { connected } = await exchange(() => net.connect({ host: '127.0.0.1', port }), { wait: 200 }).catch(() => ({}))
  if (connected) return
  if (Date.now() > until) throw new Error(`nothing listens on port ${port}`)
  await timers.setTimeout(50)
  await listening(port, until)
}

/** One HTTP request without following redirects. `size` sends that many pseudo-random bytes. */
function request({ url, method = 'GET', headers = {}, body, size, pace, timeout = 15_000 * PATIENCE, agent = false }) {
  return new Promise((resolve, reject) => {
    const client = url.startsWith('https:') ? https : http
    const outgoing = client.request(url, { method, headers, timeout, agent }, (response) => {
      const digest = crypto.createHash('sha256')
      const chunks = []
      let length = 0
      response.on('data', (chunk) => {
        digest.update(chunk)
        length += chunk.length
        if (length <= LIMIT) chunks.push(chunk)
      })
      response.on('error', reject)
      response.on('end', () =>
        resolve({
          status: response.statusCode,
          headers: response.headers,
          body: Buffer.concat(chunks).toString('latin1'),
          length,
          sha256: digest.digest('hex'),
          sent: sent?.sha256 ?? null,
        }),
      )
    })
    outgoing.on('timeout', () => outgoing.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })))
    outgoing.on('error', reject)
    const sent = size === undefined ? null : bulk(size)
    void feed(outgoing, sent?.blocks ?? (body === undefined ? [] : [Buffer.from(body, 'latin1')]), pace)
  })
}

async function feed(stream, blocks, pace = 0) {
  for (const block of blocks) {
    if (stream.destroyed) return
    if (!stream.write(block)) await Promise.race([new Promise((resume) => stream.once('drain', resume)), timers.setTimeout(5000)])
    if (pace) await timers.setTimeout(pace)
  }
  stream.end()
}

function bulk(size) {
  const digest = crypto.createHash('sha256')
  const blocks = []
  for (let left = size, seed = 1; left > 0; left -= 65536, seed += 1) {
    const block = crypto.createHash('sha512').update(String(seed)).digest()
    const wide = Buffer.alloc(Math.min(left, 65536), block)
    digest.update(wide)
    blocks.push(wide)
  }
  return { blocks, sha256: digest.digest('hex') }
}

async function main() {
  const results = {}
  for (const entry of steps) {
    const group = [entry].flat()
    const outcomes = await Promise.all(group.map(run))
    for (const [index, step] of group.entries()) results[step.name] = outcomes[index]
  }
  process.stdout.write(`\nAMBIT-RESULTS ${JSON.stringify(results)}\n`, () => process.exit(0))
}

void main()
