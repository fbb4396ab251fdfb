/** C: what a process inside can ask of the kernel and of the host. Each refusal has its control outside. */
import assert from 'node:assert/strict'
import { closeSync, constants, openSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { attack, once } from '../support/case.ts'
import { RUNTIME } from '../support/runtime.ts'
import { type Result, Stage, type Step, type Steps } from '../support/stage.ts'
import type { As } from '../support/users.ts'

const SECRET = 'the secret outside'

interface Scene {
  readonly stage: Stage
  readonly inside: Steps
  readonly outside: Steps
  /** A file that the namespace chain may replace without harm, as control. */
  readonly expendable: string
}

const DESKTOP = {
  SSH_AUTH_SOCK: 'agent.sock',
  GPG_AGENT_INFO: 'gpg.sock',
  DBUS_SESSION_BUS_ADDRESS: 'bus.sock',
  DBUS_SYSTEM_BUS_ADDRESS: 'system-bus.sock',
  WAYLAND_DISPLAY: 'wayland-0',
  PULSE_SERVER: 'pulse.sock',
  PIPEWIRE_REMOTE: 'pipewire-0',
  AT_SPI_BUS_ADDRESS: 'at-spi.sock',
  DOCKER_HOST: 'docker.sock',
} as const

const DEVICES = [
  '/dev/kvm',
  '/dev/mem',
  '/dev/fuse',
  '/dev/net/tun',
  '/dev/vda',
  '/dev/sda',
  '/dev/input/event0',
]

/** One session and one run outside, the same attempts in both. */
const scene = once(async (as: As): Promise<Scene> => {
  const stage = new Stage(as, { files: { 'notes.txt': 'notes' }, home: { '.ssh/id_rsa': SECRET } })
  stage.put(stage.outside, { 'secret.txt': SECRET, 'denied.txt': 'untouched', 'expendable.txt': 'untouched' })
  const expendable = join(stage.outside, 'expendable.txt')
  const sockets = await hostSockets(stage)
  const held = openSync(stage.outside, 'r')
  const heldFile = openSync(join(stage.outside, 'secret.txt'), 'r')
  const options = { env: desktopVariables(stage), extraFds: [held, heldFile, held, heldFile] }
  try {
    const inside = await stage.inside(attempts(stage, join(stage.outside, 'denied.txt')), options)
    const outside = await stage.uncontrolled(attempts(stage, expendable), options)
    return { stage, inside, outside, expendable }
  } finally {
    for (const server of sockets) server.close()
    closeSync(held)
    closeSync(heldFile)
  }
})

function desktopVariables(stage: Stage): Record<string, string> {
  const at = (name: string): string => join(stage.outside, name)
  return {
    ...Object.fromEntries(Object.entries(DESKTOP).map(([name, socket]) => [name, at(socket)])),
    DISPLAY: `:${DISPLAY}`,
    XAUTHORITY: at('secret.txt'),
    XDG_RUNTIME_DIR: stage.outside,
    KUBERNETES_SERVICE_HOST: '192.0.2.1',
  }
}

/** Sockets of the host: one inside a root, one of each desktop service, two abstract ones. */
async function hostSockets(stage: Stage): Promise<Server[]> {
  const names = Object.values(DESKTOP).map((name) => join(stage.outside, name))
  const paths = [join(stage.project, 'host.sock'), ...names, abstractName(stage), X11]
  const servers = await Promise.all(paths.map(listenOn))
  stage.own()
  return servers
}

const abstractName = (stage: Stage): string => `\0${stage.root}`
/** A display that no other run of these tests has. */
const DISPLAY = 100 + (process.pid % 60_000)
const X11 = `\0/tmp/.X11-unix/X${DISPLAY}`

async function listenOn(path: string): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => {
      // The other side may leave first.
    })
    socket.end('HTTP/1.0 200 OK\r\n\r\nhost answers')
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(path.startsWith('\0') ? { path } : { path, readableAll: true, writableAll: true }, resolve)
  })
  return server.unref()
}

const PROBES = [
  'no-new-privs',
  'ambient-set',
  'unshare-user',
  'unshare-user-high',
  'clone-user',
  'clone3',
  'io-uring-setup',
  'io-uring-enter',
  'io-uring-register',
  'tiocsti',
  'tiocsti-high',
  'tiocnotty',
  'x32-getpid',
  'ia32-getpid',
  'ia32-socketcall',
  'ia32-as-64',
  'chmod',
  'listen',
  'prctl',
]

function attempts(stage: Stage, denied: string): Step[] {
  const secret = join(stage.outside, 'secret.txt')
  const read = (name: string, path: string): Step => ({ name, op: 'read', path })
  const unix = (name: string, path: string): Step => ({ name, op: 'unix', path })
  return [
    { name: 'status', op: 'status' },
    { name: 'env', op: 'env' },
    { name: 'fds', op: 'fds' },
    { name: 'devices', op: 'devices' },
    { name: 'sockets', op: 'sockets', roots: ['/'] },
    ...PROBES.map((probe) => ({ name: probe, op: 'probe', args: [probe] })),
    { name: 'namespace-chain', op: 'probe', args: ['namespace-chain', denied] },
    read('self-root', `/proc/self/root${secret}`),
    read('init-root', `/proc/1/root${secret}`),
    read('host-root', `/proc/${process.pid}/root${secret}`),
    read('cwd', `/proc/self/cwd/../outside/secret.txt`),
    read('thread-root', `/proc/thread-self/root${secret}`),
    { name: 'host-cmdline', op: 'read', path: `/proc/${process.pid}/cmdline` },
    ...DEVICES.map((path) => ({ name: path, op: 'stat', path })),
    unix('abstract', abstractName(stage)),
    unix('x11-abstract', X11),
    unix('path-socket', join(stage.project, 'host.sock')),
    ...Object.values(DESKTOP).map((name) => unix(name, join(stage.outside, name))),
  ]
}

/** `Name: value` of /proc/self/status. */
const field = (status: string, name: string): string =>
  new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? ''

attack('C-01', 'runs with no_new_privs', async (as) => {
  const { inside, outside } = await scene(as)
  // The kernel is asked, not its /proc: gVisor's has no such line.
  assert.equal(outside.result('no-new-privs').value, 'ok', 'control: outside it is unset')
  assert.equal(inside.result('no-new-privs').value, 'ok:1')
  const told = field(inside.result('status').value, 'NoNewPrivs')
  assert.match(told, RUNTIME === 'container' ? /^1?$/ : /^1$/)
  return 'PR_GET_NO_NEW_PRIVS: 1'
})

attack('C-02', 'holds no capability as a non-root host user', async (as) => {
  const { inside } = await scene(as)
  const status = inside.result('status').value
  // gVisor has no ambient set.
  assert.match(inside.result('ambient-set').value, RUNTIME === 'container' ? /^(ok|EINVAL)$/ : /^ok$/)
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd'])
    assert.match(field(status, set), /^0+$/, `${set} is ${field(status, set)}`)
  // Control: the same reading finds capabilities where there are some (root's, or the bounding set).
  assert.match(field(readFileSync('/proc/1/status', 'utf8'), 'CapBnd'), /[^0]/)
  return 'CapInh/Prm/Eff/Bnd/Amb 0'
})

attack('C-05', 'refuses unshare(CLONE_NEWUSER), with high bits and by clone', async (as) => {
  const { inside, outside } = await scene(as)
  assert.equal(outside.result('unshare-user').value, 'ok', 'control: allowed outside')
  assert.equal(outside.result('clone-user').value, 'ok', 'control: allowed outside')
  assert.equal(inside.result('unshare-user').value, 'EPERM')
  assert.notEqual(inside.result('unshare-user-high').value, 'ok')
  assert.equal(inside.result('clone-user').value, 'EPERM')
  assert.equal(inside.result('clone3').value, 'ENOSYS', 'libc must fall back to clone')
  for (const [probe, errno] of [
    ['chmod', 'EFAULT'],
    ['listen', 'EBADF'],
    ['prctl', 'EFAULT'],
  ] as const)
    assert.equal(inside.result(probe).value, errno, `${probe} is benign and must reach the kernel`)
  return `unshare EPERM, clone EPERM, clone3 ENOSYS`
})

attack('C-11', 'stops the namespace chain at its first call', async (as) => {
  const { stage, inside, outside, expendable } = await scene(as)
  assert.equal(outside.result('namespace-chain').value, 'ok', 'control: the chain works outside')
  assert.equal(readFileSync(expendable, 'utf8'), 'replaced', 'control: and replaces the file')
  assert.equal(inside.result('namespace-chain').value, 'EPERM')
  assert.equal(readFileSync(join(stage.outside, 'denied.txt'), 'utf8'), 'untouched')
  return 'EPERM, file unchanged'
})

attack('C-14', 'pushes no input into the terminal', async (as) => {
  const { stage, inside, outside } = await scene(as)
  assert.equal(outside.result('tiocsti').value, 'EBADF', 'control: outside the kernel is asked')
  assert.equal(inside.result('tiocsti').value, 'EPERM')
  assert.equal(inside.result('tiocsti-high').value, 'EPERM')
  assert.equal(inside.result('tiocnotty').value, 'EBADF', 'ordinary terminal requests reach the kernel')
  const probe = join(stage.project, 'tools/probe')
  const pushed = await underTerminal(stage, `${probe} tiocsti-terminal`)
  // Kernels with dev.tty.legacy_tiocsti=0 refuse everywhere: then only the filter's answer above is evidence.
  if (readFileSync('/proc/sys/dev/tty/legacy_tiocsti', 'utf8').trim() === '1')
    assert.match(pushed, /LEFT=\[X\]/, `control: outside the byte arrives: ${pushed}`)
  const profile = stage.profile()
  const run = `${stage.product.ambit} run --profile ${profile} --project ${stage.project} --yes -- ${probe} tiocsti-terminal`
  const refused = await underTerminal(stage, run)
  assert.match(refused, /EPERM/)
  assert.match(refused, /LEFT=\[\]/)
  return 'EPERM, nothing typed outside'
})

/** Runs a command line on a terminal of its own and says what input it left behind for the shell. */
async function underTerminal(stage: Stage, line: string): Promise<string> {
  const script = join(stage.outside, 'terminal.sh')
  writeFileSync(script, `${line}\nLEFT=\nread -t 1 -n 1 LEFT\necho "LEFT=[$LEFT]"\n`)
  const ran = await stage.command(['script', '-qec', `bash ${script}`, '/dev/null'], { timeout: 60_000 })
  return ran.stdout + ran.stderr
}

attack('C-18', 'refuses io_uring', async (as) => {
  const { inside, outside } = await scene(as)
  assert.match(outside.result('io-uring-setup').value, /^(EFAULT|EPERM)$/, 'control')
  assert.match(outside.result('io-uring-enter').value, /^EBADF$/, 'control: outside the kernel is asked')
  for (const call of ['io-uring-setup', 'io-uring-enter', 'io-uring-register'])
    assert.match(inside.result(call).value, /^(EPERM|ENOSYS)$/, call)
  return inside.result('io-uring-setup').value
})

attack('C-20', 'ends a process that calls by ia32 or x32 numbers', async (as) => {
  const { inside, outside } = await scene(as)
  // A kernel without ia32 emulation ends it outside, too; then there is no such way in.
  const ia32 = outside.result('ia32-getpid').value
  if (RUNTIME === 'container') return oneEntry(inside)
  assert.match(ia32, /^(ok|SIGSEGV)$/, 'control')
  for (const call of ['ia32-getpid', 'ia32-socketcall'])
    assert.match(inside.result(call).value, ia32 === 'ok' ? /^SIGSYS$/ : /^SIG(SYS|SEGV)$/, call)
  assert.equal(inside.result('x32-getpid').value, 'SIGSYS')
  return 'SIGSYS for both'
})

/**
 * gVisor has one table of calls. What comes by the 32-bit entry is not a second way in: it is refused as a whole, or
 * read as a number of that one table, which the filter sees as such.
 */
function oneEntry(inside: Steps): string {
  const got = ['x32-getpid', 'ia32-getpid', 'ia32-socketcall', 'ia32-as-64'].map(
    (call) => [call, inside.result(call).value as string] as const,
  )
  // 102, socketcall by the one table, is getuid by the other.
  const harmless = `ok:${field(inside.result('status').value, 'Uid').split('\t')[0]}`
  for (const [call, result] of got)
    assert.ok(!result.startsWith('ok') || result === harmless, `${call} ${result}`)
  assert.match(inside.result('x32-getpid').value, /^SIGSYS$/)
  assert.match(inside.result('ia32-as-64').value, /^(EPERM|SIG(SYS|SEGV|ILL))$/)
  return got.map(([call, result]) => `${call} ${result}`).join(', ')
}

attack('C-28', 'opens nothing more through /proc', async (as) => {
  const { inside, outside } = await scene(as)
  assert.equal(outside.result('self-root').value, SECRET, 'control: the alias works outside')
  assert.equal(outside.result('cwd').value, SECRET, 'control')
  for (const alias of ['self-root', 'init-root', 'host-root', 'cwd', 'thread-root'])
    assert.equal(inside.result(alias).ok, false, `${alias} gave ${inside.result(alias).value}`)
  const cmdline = inside.result('host-cmdline')
  assert.ok(!cmdline.ok || !String(cmdline.value).includes('containment.test'), 'a host process is visible')
  return `refused: ${inside.result('self-root').error}`
})

attack('C-32', 'has only harmless device nodes', async (as) => {
  const { inside, outside } = await scene(as)
  const seen = inside.result('devices').value as string[]
  const harmless = /^\/dev\/(null|zero|full|random|urandom|tty|ptmx|console|pts\/\d+|pts\/ptmx)$/
  assert.deepEqual(
    seen.filter((path) => !harmless.test(path)),
    [],
  )
  assert.ok(seen.includes('/dev/null'))
  assert.ok(outside.result('/dev/fuse').ok, 'control: outside it is there')
  for (const path of DEVICES) assert.ok(isNoDevice(inside.result(path)), path)
  return `${seen.length} nodes: ${seen.map((path) => path.slice(5)).join(' ')}`
})

/** Not there, or a place that nothing stands at: gVisor's own /dev/fuse is covered by an empty directory. */
function isNoDevice({ ok, error, value }: Result): boolean {
  if (RUNTIME !== 'container') return error === 'ENOENT'
  return error === 'ENOENT' || (ok && (value.mode & constants.S_IFMT) === constants.S_IFDIR)
}

attack('C-36', 'inherits no descriptor', async (as) => {
  const { stage, inside, outside } = await scene(as)
  const held = (steps: Steps): string[] =>
    (steps.result('fds').value as [number, string][])
      .filter(([, target]) => target.startsWith(stage.outside))
      .map(([fd, target]) => `${fd} → ${target}`)
  assert.equal(held(outside).length, 4, 'control: without Ambit all four are inherited')
  assert.deepEqual(held(inside), [])
  return 'none of 4 arrived'
})

attack('C-40', "does not reach the host's abstract socket", async (as) => {
  const { inside, outside } = await scene(as)
  assert.match(outside.result('abstract').value.received, /host answers/, 'control: reachable outside')
  const got = inside.result('abstract')
  assert.equal(got.ok, false, 'it connected')
  assert.match(got.error ?? '', /^(ECONNREFUSED|EPERM|EACCES)$/)
  return got.error ?? ''
})

attack('C-42', 'does not reach a host socket below a root', async (as) => {
  const { inside, outside } = await scene(as)
  assert.match(outside.result('path-socket').value.received, /host answers/, 'control: reachable outside')
  const got = inside.result('path-socket')
  assert.ok(!got.ok || !got.value.received, 'the host answered')
  assert.equal(got.ok, false, 'it connected')
  return got.error ?? ''
})

attack('C-43', 'finds no control socket of containers or machines', async (as) => {
  const { stage, inside, outside } = await scene(as)
  const docker = join(stage.outside, DESKTOP.DOCKER_HOST)
  assert.ok(
    (outside.result('sockets').value as string[]).includes(docker),
    'control: the walk finds one outside',
  )
  // The socket that the test put below a root keeps its name; C-42 shows that it is dead.
  const found = (inside.result('sockets').value as string[]).filter((path) => !path.startsWith(stage.project))
  assert.deepEqual(found, [])
  assert.equal(inside.result(DESKTOP.DOCKER_HOST).ok, false)
  return 'no socket found'
})

attack('C-44', 'has no desktop or agent socket and none of their variables', async (as) => {
  const { inside, outside } = await scene(as)
  const variables = [
    ...Object.keys(DESKTOP),
    'DISPLAY',
    'XAUTHORITY',
    'XDG_RUNTIME_DIR',
    'KUBERNETES_SERVICE_HOST',
  ]
  for (const name of variables) {
    assert.ok(outside.result('env').value[name], `control: ${name} is set outside`)
    assert.equal(inside.result('env').value[name], undefined, `${name} is set inside`)
  }
  for (const socket of Object.values(DESKTOP)) {
    assert.match(outside.result(socket).value.received, /host answers/, `control: ${socket} answers outside`)
    assert.equal(inside.result(socket).ok, false, `${socket} is reachable`)
  }
  assert.match(outside.result('x11-abstract').value.received, /host answers/, 'control: X11 by abstract name')
  assert.equal(inside.result('x11-abstract').ok, false, 'X11 is reachable by its abstract name')
  return `${variables.length} variables unset, ${Object.keys(DESKTOP).length + 1} sockets refused`
})
