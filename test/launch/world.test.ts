import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { dedicated, drive, isRoot, last, shell } from './world.ts'

/** Python that makes a system call by number and prints its errno. */
const CALL = `import ctypes,sys
c=ctypes.CDLL(None,use_errno=True)
def call(n,*a):
  ctypes.set_errno(0); r=c.syscall(n,*[ctypes.c_ulong(x) for x in a]); return ctypes.get_errno() if r<0 else 0
`
const errnos = (calls: string): string[] =>
  drive({ argv: ['python3', '-c', `${CALL}print(${calls})`], ...(isRoot ? { uid: 47_101 } : {}) })
    .output.trim()
    .split(' ')
const x86 = process.arch === 'x64' ? false : 'numbers are those of x86-64'

test('runs a command and passes its exit status', () => {
  const result = shell('echo out; echo err >&2; exit 7')
  assert.deepEqual(
    result.events.map((event) => event.ev),
    ['world', 'ready', 'running', 'exit'],
  )
  assert.deepEqual(last(result), { ev: 'exit', code: 7 })
  assert.deepEqual([result.output, result.errors, result.descriptors], ['out\n', 'err\n', 5])
  assert.deepEqual(last(shell('kill -9 $$')), { ev: 'exit', signal: 9 })
  assert.deepEqual(last(drive({ argv: ['no-such-command'], ...(isRoot ? { uid: 47_101 } : {}) })), {
    ev: 'exit',
    code: 127,
  })
})

test('no new privileges, no capabilities, seccomp in every descendant (C-01, C-02, C-03)', () => {
  const { output } = shell('id -u; sh -c \'grep -E "^(Cap|NoNewPrivs|Seccomp:)" /proc/self/status\'')
  const status = Object.fromEntries(
    output
      .split('\n')
      .slice(1, -1)
      .map((line) => line.split(/:\s+/)),
  )
  const none = '0000000000000000'
  assert.equal(output.split('\n')[0], '1000')
  assert.deepEqual(status, {
    CapInh: none,
    CapPrm: none,
    CapEff: none,
    CapBnd: none,
    CapAmb: none,
    NoNewPrivs: '1',
    Seccomp: '2',
  })
})

test('every control is reported, and none as not enforced', () => {
  const ready = shell('true').events.find((event) => event.ev === 'ready')
  const states = new Map(ready?.controls?.map(({ control, state }) => [control, state]))
  for (const control of [
    'user-namespace',
    'mount-namespace',
    'network-namespace',
    'pid-namespace',
    'no-new-privileges',
    'no-capabilities',
    'system-calls',
    'exec-sensor',
  ])
    assert.equal(states.get(control), 'fully', control)
  assert.equal(states.get('memory-limit'), 'partly')
  assert.ok(![...states.values()].includes('not'))
})

test('new namespaces are refused by the filter; outside they are not (C-05, C-06, C-08)', {
  skip: x86,
}, () => {
  const outside = spawnSync('unshare', ['-U', 'true'])
  assert.equal(outside.status, 0, 'positive control')
  const newUser = 0x1000_0000
  assert.deepEqual(
    errnos(`call(272,${newUser}),call(272,${newUser}|1<<40),call(56,${newUser}|17),call(435,0,0)`),
    ['1', '1', '1', '38'],
  )
})

test('nothing types into a terminal, while ordinary requests reach the kernel (C-14 to C-17)', {
  skip: x86,
}, () => {
  const badDescriptor = '9'
  assert.deepEqual(
    errnos('call(16,99,0x5412,0),call(16,99,0x5412|1<<40,0),call(16,99,0x541c,0),call(16,99,0x5422,0)'),
    ['1', '1', '1', badDescriptor],
  )
})

test('the calls that widen the kernel are refused (C-18, C-21, C-22, C-24, C-26)', { skip: x86 }, () => {
  // io_uring_setup, ptrace, keyctl, bpf, perf_event_open, userfaultfd, mount, setns, chroot, process_vm_readv
  assert.deepEqual(
    errnos('*[call(n,0,0,0,0) for n in (425,101,250,321,298,323,165,308,161,310)]'),
    Array(10).fill('1'),
  )
  assert.deepEqual(errnos('call(41,38,5,0),call(41,40,1,0),call(41,17,3,0),call(41,2,3,1)'), [
    '97',
    '97',
    '97',
    '1',
  ])
  // chmod with a bad pointer, listen on a bad descriptor: not the filter's business (G-03).
  assert.deepEqual(errnos('call(90,1,0),call(50,99,1)'), ['14', '9'])
})

test('another ABI is death (C-20)', { skip: x86 }, () => {
  const x32 = drive({
    argv: ['python3', '-c', `${CALL}call(0x40000027)`],
    ...(isRoot ? { uid: 47_101 } : {}),
  })
  assert.deepEqual(last(x32), { ev: 'exit', signal: 31 })
})

test('the host is not there (C-28, C-29, C-34)', () => {
  const result = shell(
    'cat /etc/shadow; ls /root /home; ls -d /proc/[0-9]* | wc -l; ls /proc/1/root/ /proc/1/fd; echo x > /f; echo x > /usr/f; echo x > /dev/f',
  )
  assert.match(result.errors, /\/etc\/shadow: No such file/)
  assert.match(result.errors, /\/root.*No such file[^]*\/home.*No such file/)
  assert.ok(Number(result.output.trim()) < 6)
  assert.match(result.errors, /\/proc\/1\/root\/.*Permission denied[^]*\/proc\/1\/fd.*Permission denied/)
  assert.equal(result.errors.match(/Read-only file system/g)?.length, 3)
})

test('only harmless devices (C-32)', () => {
  const { output } = shell('ls /dev')
  assert.deepEqual(output.split(/\s+/).filter(Boolean).sort(), [
    'core',
    'fd',
    'full',
    'null',
    'ptmx',
    'pts',
    'random',
    'shm',
    'stderr',
    'stdin',
    'stdout',
    'tty',
    'urandom',
    'zero',
  ])
})

test('a descriptor that the caller left open is closed inside (C-36)', () => {
  assert.equal(shell('ls /proc/$$/fd').output, '0\n1\n2\n')
})

test('an abstract socket of the host is not reachable (C-40)', () => {
  const connect = (name: string): string =>
    `import socket; s=socket.socket(socket.AF_UNIX); s.connect("\\0${name}"); print("connected")`
  const name = `ambit-test-${process.pid}`
  const listen = `import socket,subprocess,sys; s=socket.socket(socket.AF_UNIX); s.bind("\\0${name}"); s.listen(); print(subprocess.run(["python3","-c",sys.argv[1]],capture_output=True,text=True).stdout)`
  assert.match(
    execFileSync('python3', ['-c', listen, connect(name)], { encoding: 'utf8' }),
    /connected/,
    'positive control',
  )
  assert.match(
    drive({ argv: ['python3', '-c', connect(name)], ...(isRoot ? { uid: 47_101 } : {}) }).errors,
    /ConnectionRefused|PermissionError/,
  )
})

test('nothing survives the command, an order to kill, or the death of the supervisor (C-46)', () => {
  const marker = `73${process.pid}`
  const survivors = (): number =>
    spawnSync('pgrep', ['-fc', `sleep ${marker}`], { encoding: 'utf8' }).stdout.trim() as unknown as number
  const daemons = `setsid sleep ${marker} & (sleep ${marker} &) ; echo READY; `
  const after = 'READY'
  assert.deepEqual(last(shell(`${daemons} exit 0`)), { ev: 'exit', code: 0 })
  assert.deepEqual(last(shell(`${daemons} sleep 20`, { feed: [{ after, order: { op: 'kill' } }] })), {
    ev: 'exit',
    signal: 9,
  })
  assert.deepEqual(
    last(
      shell(`trap 'exit 3' TERM; ${daemons} while :; do sleep 0.05; done`, { feed: [{ after, signal: 15 }] }),
    ),
    { ev: 'exit', code: 3 },
  )
  shell(`${daemons} sleep 20`, { feed: [{ after, signal: 9 }] })
  shell(`${daemons} sleep 20`, { feed: [{ after, die: true }] })
  spawnSync('sleep', ['0.3'])
  assert.equal(Number(survivors()), 0)
})

test('a path or a command that looks like an option is data (C-47)', () => {
  const mounts = [{ kind: 'file', target: '/--dev-bind', content: 'data', mode: 0o444 }] as const
  const result = drive({ argv: ['cat', '--', '/--dev-bind'], mounts, ...(isRoot ? { uid: 47_101 } : {}) })
  assert.equal(result.output, 'data')
  assert.equal(last(drive({ argv: ['--unshare-all'], ...(isRoot ? { uid: 47_101 } : {}) }))?.code, 127)
})

test('over a limit, everything ends (R-01, R-02, R-07)', () => {
  const forks = 'i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done; wait'
  assert.deepEqual(last(shell(forks, { limits: { processes: 40 } })), {
    ev: 'over-limit',
    limit: 'processes',
  })
  assert.deepEqual(
    last(shell('sleep 1', { limits: { processes: 40 } })),
    { ev: 'exit', code: 0 },
    'positive control',
  )
  const fill = 'dd if=/dev/zero of=/tmp/x bs=1M count=60 2>/dev/null; sleep 5'
  assert.deepEqual(last(shell(fill, { limits: { memory: 40 << 20 } })), { ev: 'over-limit', limit: 'memory' })
  assert.deepEqual(last(shell('sleep 5', { limits: { wallclock: 300 } })), { ev: 'timeout' })
})

test('what a command adds to a large home in its first moment counts (R-07)', () => {
  const home = mkdtempSync(join(tmpdir(), 'ambit-home-'))
  // Looked through last.
  const deepest = Array.from({ length: 60 }, () => 'd').join('/')
  mkdirSync(join(home, deepest), { recursive: true })
  for (let place = deepest; place; place = place.slice(2))
    for (let file = 0; file < 500; file += 1) writeFileSync(join(home, place, String(file)), '')
  chmodSync(home, 0o755)
  chmodSync(join(home, deepest), 0o777)
  const mounts = [{ kind: 'bind', source: home, target: '/home/u', write: true }] as const
  const add = (size: string, seconds: number): unknown =>
    last(
      shell(`fallocate -l ${size} /home/u/${deepest}/added; sleep ${seconds}`, {
        mounts,
        limits: { disk: 16 << 20 },
      }),
    )
  assert.deepEqual(add('1M', 1), { ev: 'exit', code: 0 }, 'positive control')
  assert.deepEqual(add('64M', 8), { ev: 'over-limit', limit: 'disk' })
  rmSync(home, { recursive: true })
})

test('freeze stops every process and thaw lets them go on', () => {
  const argv = [
    'python3',
    '-c',
    'import time; print("READY",flush=True); a=time.time()\nwhile time.time()-a<0.4: pass\nprint("done")',
  ]
  const feed = [{ after: 'READY', order: { op: 'freeze' } }]
  const uid = isRoot ? { uid: 47_101 } : {}
  assert.equal(last(drive({ argv, ...uid, feed, limits: { wallclock: 1500 } }))?.ev, 'timeout')
  assert.equal(
    last(
      drive({
        argv,
        ...uid,
        feed: [...feed, { after: 'READY', order: { op: 'thaw' } }],
        limits: { wallclock: 9000 },
      }),
    )?.ev,
    'exit',
  )
})

test('the terminal is the agent’s own, filtered, resized and restored', () => {
  const line =
    'tty; printf "\\033]52;c;AAAA\\007\\033[6n\\033[31mred\\033[0m\\n"; echo READY; read x; echo "got $x"; read y'
  const result = shell(line, {
    terminal: true,
    feed: [
      { after: 'READY', type: 'hi\n' },
      { after: 'got hi', type: '\u0003' },
    ],
  })
  assert.ok(
    result.output.startsWith('/dev/pts/0\r\n\u001b[31mred\u001b[0m\r\nREADY'),
    JSON.stringify(result.output),
  )
  assert.match(result.output, /got hi/)
  assert.deepEqual([last(result), result.restored], [{ ev: 'exit', signal: 2 }, true])
})

test('every launch and exit is recorded, secrets are not', () => {
  const { facts } = shell('/bin/true --token verysecret; exit 5')
  const launches = facts.filter((fact) => fact.k === 'process.launch')
  assert.deepEqual(
    launches.map(({ path }) => path),
    ['/usr/bin/sh', '/bin/true'],
  )
  assert.deepEqual(launches[1]?.argv, ['/bin/true', '--token', '[redacted]'])
  assert.match(launches[1]?.digest ?? '', /^[0-9a-f]{64}$/)
  assert.deepEqual(
    facts.filter((fact) => fact.k === 'process.exit').map(({ code }) => code),
    [0, 5],
  )
  assert.ok(!JSON.stringify(facts).includes('verysecret'))
})

test('a spec with an unknown field, another version or host uid 0 is refused', () => {
  for (const spec of [{ surprise: 1 }, { version: 3 }, { host: { uid: 0, gid: 0 } }, { cwd: '/a/../b' }]) {
    assert.deepEqual(
      drive({ argv: ['true'], spec, ...(isRoot ? { uid: 47_101 } : {}) }).events.map((event) => event.ev),
      ['failed'],
    )
  }
})

test('as root: a dedicated uid, and sources under a 0700 directory', { skip: !isRoot }, () => {
  const secret = mkdtempSync(join(homedir(), '.ambit-test-'))
  writeFileSync(join(secret, 'data'), 'reachable')
  chmodSync(secret, 0o755)
  const mounts = [{ kind: 'bind', source: secret, target: '/data', write: false }] as const
  const script = 'cat /data/data; echo; cat /proc/self/uid_map; cat /data/../root/x /etc/shadow'
  const result = drive({ argv: ['sh', '-c', script], mounts, ...dedicated })
  assert.match(result.output, /^reachable\n\s+1000\s+0\s+1\n$/)
  assert.equal(last(result)?.code, 1)
  // Without staging this uid reads nothing there.
  const outside = spawnSync('cat', [join(secret, 'data')], { uid: 47_102, gid: 47_102, encoding: 'utf8' })
  assert.match(outside.stderr, /Permission denied/)
  rmSync(secret, { recursive: true })
})
