/** C-19, C-39, C-45, C-48: what a caller, a project or a descriptor could bring into the making of a cell. */
import assert from 'node:assert/strict'
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { attack, attackIn, once } from '../support/case.ts'
import { lines, PYTHON } from '../support/script.ts'
import { describe, Stage, type Steps } from '../support/stage.ts'
import type { As } from '../support/users.ts'

const onX64 = attackIn(process.arch === 'x64' ? null : 'the call numbers of this case are those of x86-64')

onX64(
  'C-19',
  'unix sockets of its own work, none reaches out; the internet families can be made',
  async (as) => {
    const stage = new Stage(as)
    const socket = join(stage.outside, 'host.sock')
    const server = createServer((client) => void client.end('host answers')).listen({
      path: socket,
      readableAll: true,
      writableAll: true,
    })
    server.unref()
    const own = lines(
      'import socket, os',
      'a, b = socket.socketpair(); a.send(b"pair"); print(b.recv(9).decode())',
      's = socket.socket(socket.AF_UNIX); s.bind("/tmp/own.sock"); s.listen()',
      'c = socket.socket(socket.AF_UNIX); c.connect("/tmp/own.sock"); print("own")',
    )
    const steps = [
      { name: 'stream', op: 'probe', args: ['call', '41', '2', '1', '0'] },
      { name: 'stream6', op: 'probe', args: ['call', '41', '10', '1', '0'] },
      { name: 'own', op: 'exec', argv: [PYTHON, '-c', own] },
      { name: 'host', op: 'unix', path: socket },
      { name: 'host by root', op: 'unix', path: `/proc/self/root${socket}` },
    ]
    const [inside, outside] = [await stage.inside(steps), await stage.uncontrolled(steps)]
    server.close()
    assert.match(outside.result('host').value.received, /host answers/, 'control: it answers outside')
    for (const name of ['host', 'host by root']) assert.equal(inside.result(name).ok, false, name)
    for (const name of ['stream', 'stream6']) assert.match(inside.result(name).value, /^ok/, name)
    assert.equal(inside.result('own').value.stdout, 'pair\nown\n', JSON.stringify(inside.result('own')))
    return `host socket ${inside.result('host').error}; own ones work`
  },
)

/** Hostile links where the cell's places will be made, and a device directory that leads elsewhere. */
attack('C-39', 'links at the places of mounts lead the set-up nowhere', async (as) => {
  const stage = new Stage(as, { files: { 'data.txt': 'data' } })
  stage.put(stage.outside, { 'secret.txt': 'secret', 'dev/null': 'a file', 'proc/': '' })
  // The project itself brings what a hostile image brings: dev, proc, etc, .ambit and tmp as links to elsewhere.
  for (const name of ['dev', 'proc', 'etc', 'tmp', '.ambit', 'sys'])
    symlinkSync(name === 'dev' ? '../outside/dev' : stage.outside, join(stage.project, name))
  stage.own()
  const look = lines(
    'for f in /dev/null /dev/zero /dev/random; do test -c $f || echo "$f is no device"; done',
    'test -L /dev/console && echo "console is a link"; test -f /proc/1/status || echo "no proc"',
    'cat dev/null etc/secret.txt tmp/secret.txt 2>/dev/null; cat data.txt',
  )
  const ran = await stage.session(['/bin/sh', '-c', look])
  assert.equal(ran.stdout, 'data', describe(ran))
  const free = await stage.command(['/bin/sh', '-c', look])
  assert.match(free.stdout, /a filesecretsecretdata/, 'control: outside the links lead there')
  return 'devices real, links lead nowhere'
})

attack('C-39', 'a root exchanged for a link while the session is made widens nothing', async (as) => {
  const stage = new Stage(as, { files: { 'data.txt': 'data' } })
  stage.put(stage.root, { 'decoy/data.txt': 'decoy', 'decoy/secret.txt': 'secret' })
  stage.own()
  const exchange = join(stage.outside, 'exchange.py')
  stage.put(stage.outside, {
    'exchange.py': lines(
      'import ctypes, os, sys, time',
      'c, project = ctypes.CDLL(None), sys.argv[1].encode()',
      'link = project + b".link"; os.symlink(sys.argv[2], link); end = time.time() + 6',
      'while time.time() < end and not os.path.exists(sys.argv[3]):',
      '  c.renameat2(-100, project, -100, link, 2); time.sleep(0.003)',
      'if os.path.islink(project): c.renameat2(-100, project, -100, link, 2)',
    ),
  })
  const stop = join(stage.outside, 'stop')
  const racing = stage.command([PYTHON, exchange, stage.project, join(stage.root, 'decoy'), stop], {
    cwd: '/',
  })
  const seen: string[] = []
  const read = ['/bin/sh', '-c', 'cat data.txt secret.txt 2>/dev/null; true']
  for (let round = 0; round < 3; round++) {
    const ran = await stage.session(read, { cwd: '/', args: ['--project', stage.project] })
    seen.push(ran.code === 0 ? ran.stdout : `exit ${ran.code}`)
  }
  stage.put(stage.outside, { stop: '' })
  await racing
  // The decoy is the user's own directory beside the project: naming it is refused or it is not shown.
  assert.ok(!seen.some((text) => text.includes('secret')), seen.join(' | '))
  const calm = await stage.session(read)
  assert.equal(calm.stdout, 'data', `control: in peace it is shown\n${describe(calm)}`)
  return `${seen.filter((text) => text === 'data').length} shown, ${seen.filter((text) => text.startsWith('exit')).length} refused of 3`
})

attack('C-45', 'no descriptor of the host can be had, inherited or passed', async (as) => {
  const stage = new Stage(as)
  const socket = join(stage.project, 'giver.sock')
  stage.put(stage.outside, {
    'secret.txt': 'the secret outside',
    // Gives away an open file to whoever connects: by name in the project, by an abstract name, over loopback TCP.
    'giver.py': lines(
      'import array, os, socket, sys, threading',
      'f = open(sys.argv[2])',
      'def serve(s):',
      '  s.listen()',
      '  while True:',
      '    c, _ = s.accept()',
      '    c.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f.fileno()]))])',
      'for name in [sys.argv[1], "\\0" + sys.argv[1]]:',
      '  s = socket.socket(socket.AF_UNIX); s.bind(name)',
      '  if name[0] != "\\0": os.chmod(name, 0o777)',
      '  threading.Thread(target=serve, args=(s,), daemon=True).start()',
      'import time; time.sleep(60)',
    ),
  })
  const take = lines(
    'import os, socket, sys',
    'inherited = []',
    'for fd in range(3, 256):',
    '  try: inherited.append(os.readlink("/proc/self/fd/%d" % fd))',
    '  except OSError: pass',
    'name = sys.argv[1]',
    'for way, address in [("path", name), ("root", "/proc/self/root" + name), ("abstract", "\\0" + name)]:',
    '  s = socket.socket(socket.AF_UNIX); s.settimeout(3)',
    '  try:',
    '    s.connect(address); fds = socket.recv_fds(s, 9, 1)[1]; print(way, os.pread(fds[0], 99, 0).decode())',
    '  except OSError as e: print(way, "refused", e.errno)',
    // The stream of standard input, too, is the cell's own pipe: never a socket over which descriptors come.
    'import stat; print("stdio", [stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in range(3)])',
    'print("inherited", [name for name in inherited if "ambit-stage" in name or "socket" in name])',
  )
  let stop = (): void => {}
  const giving = stage.command(
    [PYTHON, join(stage.outside, 'giver.py'), socket, join(stage.outside, 'secret.txt')],
    {
      onStart: (pid) => {
        stop = () => process.kill(pid, 'SIGKILL')
      },
    },
  )
  for (let wait = 0; wait < 100 && !existsSync(socket); wait++) await new Promise((r) => setTimeout(r, 50))
  const [free, inside] = [
    await stage.command([PYTHON, '-c', take, socket]),
    await stage.session([PYTHON, '-c', take, socket]),
  ]
  stop()
  await giving
  for (const way of ['path', 'root', 'abstract'])
    assert.match(free.stdout, new RegExp(`^${way} the secret`, 'm'), `control: ${describe(free)}`)
  for (const way of ['path', 'root', 'abstract'])
    assert.match(inside.stdout, new RegExp(`^${way} refused \\d+$`, 'm'), describe(inside))
  assert.match(inside.stdout, /^stdio \[False, False, False\]$/m)
  assert.match(inside.stdout, /^inherited \[\]$/m)
  return inside.stdout.trim().split('\n').slice(0, 3).join(', ')
})

/** What a hostile project's environment file or a wrapper could set, each meant to lift something. */
function liftingVariables(stage: Stage): Record<string, string> {
  const at = (name: string): string => join(stage.outside, name)
  return {
    PATH: `${at('bin')}:.:${join(stage.project, 'node_modules/.bin')}:/usr/bin:/bin`,
    NODE_OPTIONS: `--require=${at('inject.cjs')}`,
    NODE_PATH: at('modules'),
    NODE_EXTRA_CA_CERTS: at('evil.pem'),
    NODE_TLS_REJECT_UNAUTHORIZED: '0',
    NODE_REPL_EXTERNAL_MODULE: at('inject.cjs'),
    SSLKEYLOGFILE: at('keys.log'),
    OPENSSL_CONF: at('openssl.cnf'),
    LD_PRELOAD: at('inject.so'),
    LD_LIBRARY_PATH: at('bin'),
    LD_AUDIT: at('inject.so'),
    TMPDIR: at('bin'),
    BASH_ENV: at('inject.sh'),
    ENV: at('inject.sh'),
    PYTHONSTARTUP: at('inject.py'),
    GIT_CONFIG_GLOBAL: at('gitconfig'),
    GIT_CONFIG_COUNT: '1',
    GIT_CONFIG_KEY_0: 'core.fsmonitor',
    GIT_CONFIG_VALUE_0: at('bin/planted'),
    GIT_EXTERNAL_DIFF: at('bin/planted'),
    GIT_EXEC_PATH: at('bin'),
    BWRAP: at('bin/planted'),
    BWRAP_ARGS: '--dev-bind / /',
    BUBBLEWRAP_PATH: at('bin/planted'),
    AMBIT_LAUNCH: at('bin/planted'),
    AMBIT_BIN: at('bin'),
    AMBIT_ROOT: stage.outside,
    AMBIT_UNSAFE: '1',
    AMBIT_NO_SANDBOX: '1',
    AMBIT_RUNTIME: 'none',
    AMBIT_DISABLE: '1',
    AMBIT_YES: '1',
    IS_SANDBOX: '1',
    CLAUDE_CODE_SANDBOXED: '1',
    XDG_CONFIG_HOME: at('xdg'),
    XDG_DATA_HOME: at('xdg'),
    XDG_CACHE_HOME: at('xdg'),
    XDG_RUNTIME_DIR: at('xdg'),
  }
}

/** Programs that Ambit or its parts start, or could be thought to. */
const PLANTED = ['bwrap', 'nft', 'ambit-launch', 'ambit-view', 'ambitd', 'node', 'git', 'fusermount3', 'fusermount', 'ip', 'readlink', 'env', 'planted'] // biome-ignore format: a list

function plant(stage: Stage): void {
  const mark = join(stage.outside, 'ran')
  const script = `#!/bin/sh\necho "$0 $*" >> ${mark}\nexit 1\n`
  const bins = [join(stage.outside, 'bin'), join(stage.project, 'node_modules/.bin'), stage.project]
  for (const bin of bins)
    for (const name of PLANTED) {
      mkdirSync(bin, { recursive: true })
      stage.put(bin, { [name]: script })
      chmodSync(join(bin, name), 0o755)
    }
  stage.put(stage.outside, {
    'inject.cjs': `require('fs').appendFileSync(${JSON.stringify(mark)}, 'node ' + process.argv.join(' ') + '\\n')`,
    'inject.sh': `echo shell >> ${mark}`,
    gitconfig: `[core]\n\tfsmonitor = ${join(stage.outside, 'bin/planted')}\n`,
    'openssl.cnf': 'openssl_conf = x\n[x]\nssl_conf = y\n[y]\nsystem_default = z\n[z]\nMinProtocol = None\n',
    'evil.pem': 'no certificate\n',
    'xdg/ambit/profiles/writer.yaml': 'planted',
  })
}

const lifted = once(async (as: As): Promise<{ stage: Stage; inside: Steps }> => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  stage.put(stage.outside, { 'secret.txt': 'the secret outside' })
  await stage.command(['git', 'init', '-q', '.'])
  plant(stage)
  const inside = await stage.inside(
    [
      { name: 'env', op: 'env' },
      { name: 'status', op: 'status' },
      { name: 'secret', op: 'read', path: join(stage.outside, 'secret.txt') },
      { name: 'user', op: 'probe', args: ['unshare-user'] },
      { name: 'no-new-privs', op: 'probe', args: ['no-new-privs'] },
    ],
    { env: liftingVariables(stage) },
  )
  return { stage, inside }
})

attack('C-48', 'no variable of the caller lifts a control or runs a planted program', async (as) => {
  const { stage, inside } = await lifted(as)
  const ran = join(stage.outside, 'ran')
  assert.ok(!existsSync(ran), `ran on the host: ${existsSync(ran) ? readFileSync(ran, 'utf8') : ''}`)
  assert.equal(inside.result('no-new-privs').value, 'ok:1')
  assert.match(inside.result('status').value, /^Seccomp:\s*2$/m)
  assert.equal(inside.result('user').value, 'EPERM')
  assert.equal(inside.result('secret').ok, false)
  assert.equal(inside.summary.outcome, 'ended')
  assert.ok(!existsSync(join(stage.outside, 'keys.log')), 'TLS keys were logged')
  const env = inside.result('env').value as Record<string, string>
  const given = liftingVariables(stage)
  const kept = Object.keys(given).filter((name) => env[name] === given[name])
  assert.deepEqual(kept, [], 'they reached the agent as they were')
  assert.ok(!env.PATH?.includes(stage.outside), env.PATH)
  // Control: the same variables do run what was planted, in a program that does not look away.
  const { node } = stage.product
  const { PATH = '', NODE_OPTIONS = '' } = given
  await stage.command(['/bin/sh', '-c', `git status; ${node} -e 0`], { env: { PATH, NODE_OPTIONS } })
  const control = readFileSync(ran, 'utf8')
  assert.match(control, /bin\/git status/, 'control: a planted git runs')
  assert.match(control, /^node /m, 'control: a planted module runs')
  return `${Object.keys(given).length} variables, ${PLANTED.length} planted programs: none took`
})

attack('C-48', 'Ambit’s own state in the agent’s reach is refused', async (as) => {
  const stage = new Stage(as)
  const home = join(stage.project, 'state')
  mkdirSync(home, { mode: 0o700 })
  stage.own()
  const ran = await stage.session(['/bin/true'], { env: { AMBIT_HOME: home } })
  assert.notEqual(ran.code, 0, describe(ran))
  assert.match(ran.stderr, /state|AMBIT_HOME|Ambit/, describe(ran))
  const fine = await stage.session(['/bin/true'])
  assert.equal(fine.code, 0, `control\n${describe(fine)}`)
  return ran.stderr.trim().split('\n').at(-1)?.slice(0, 90).replaceAll(stage.root, '…') ?? ''
})
