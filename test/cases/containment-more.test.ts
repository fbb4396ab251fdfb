/** C, the wider set: calls that the filter refuses, and ways round it that gain nothing. Controls run outside. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import {
  asNamespaceRoot,
  asNamespaceRoots,
  CALLS,
  KERNEL,
  KEYS,
  MINUS,
  mostAllowed,
  MOUNTING,
  NEW_MOUNTING,
  probe,
  refusedCalls,
} from '../support/calls.ts'
import { attack, attackIn, once } from '../support/case.ts'
import { RUNTIME } from '../support/runtime.ts'
import { Stage, type Step, type Steps } from '../support/stage.ts'
import { type As, identity } from '../support/users.ts'

const SECRET = 'the secret outside'

/** The numbers below are x86-64's. */
const onX64 = attackIn(process.arch === 'x64' ? null : 'the call numbers of this case are those of x86-64')

/** Said of an ordinary user where no control shows it: outside, the kernel refuses the same. */
const BY_KERNEL = '; no user may outside either'

/** Every socket family number that Linux gives out; only some may be made inside. */
const FAMILIES = Array.from({ length: 46 }, (_, family) => family)
const ADMITTED = [1, 2, 10, 16]

const USER_NAMESPACES = '/proc/sys/user/max_user_namespaces'
const WRITABLE_ONLY_BY_HOST = [
  '/proc/sys/kernel/core_pattern',
  '/proc/sys/kernel/modprobe',
  USER_NAMESPACES,
  '/proc/sysrq-trigger',
]
/** Not every kernel has every one. */
const SYSCTLS = ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', USER_NAMESPACES].filter(
  (path) => existsSync(path),
)

interface Scene {
  readonly stage: Stage
  readonly inside: Steps
  readonly outside: Steps
  readonly victim: ChildProcess
  readonly sysctls: readonly string[]
}

const victims: ChildProcess[] = []
after(() => victims.forEach((child) => child.kill('SIGKILL')))

/** A process of the same user, outside. */
function startVictim(as: As): ChildProcess {
  const child = spawn('sleep', ['1800'], { ...identity(as), stdio: 'ignore' })
  victims.push(child)
  return child
}

const hostSettings = (): string[] => SYSCTLS.map((path) => readFileSync(path, 'utf8'))

const scene = once(async (as: As): Promise<Scene> => {
  const stage = new Stage(as, { files: { '.env': SECRET, 'locked.txt': SECRET, 'plain.txt': 'plain' } })
  stage.put(stage.outside, { 'secret.txt': SECRET })
  chmodSync(join(stage.project, 'locked.txt'), 0)
  const victim = startVictim(as)
  const sysctls = hostSettings()
  const inside = await stage.inside(attempts(stage, victim.pid ?? 0))
  const expendable = startVictim(as)
  const free = [...freeAttempts(stage, as), ...attempts(stage, expendable.pid ?? 0)]
  const outside = await stage.uncontrolled(free)
  return { stage, inside, outside, victim, sysctls }
})

const sh = (name: string, cmd: string): Step => ({ name, op: 'sh', cmd })

const THREADS =
  'const{Worker}=require("worker_threads");new Worker("require(\'worker_threads\').parentPort.postMessage(7)",{eval:true}).on("message",n=>console.log("thread",n))'

/** Opens for writing and writes nothing: what would be harmful to succeed at stays harmless. */
const opens = (path: string): string => `if (: >> ${path}) 2>/dev/null; then echo OPENED ${path}; fi`

const RAW_SOCKETS: Readonly<Record<string, readonly string[]>> = {
  'socket-packet': ['socket-packet'],
  'raw icmp': ['call', '41', '2', '3', '1'],
}

/** What a world shows of the one it was made in. */
const oldRoots = ({ outside }: Stage): string =>
  `for r in /oldroot /newroot /tmp/oldroot /tmp/newroot /old_root /.old; do ls -d $r $r${outside}; done 2>/dev/null; ls -a / /tmp; cut -d" " -f5 /proc/self/mountinfo`

/** A careless world: the root is changed, and the old one stays where pivot_root(2) put it. */
const careless = (
  stage: Stage,
): string => `cd ${stage.outside} && mkdir -p world && mount -t tmpfs none world && cd world
mkdir oldroot proc dev tmp && mount --rbind /proc proc && mount --rbind /dev dev
for d in usr bin lib lib64; do
  if [ -L /$d ]; then cp -P /$d .; elif [ -d /$d ]; then mkdir $d && mount --rbind /$d $d; fi
done
PATH=$PATH:/usr/sbin:/sbin; pivot_root . oldroot && cd / && ${oldRoots(stage)}`

/** For the controls: what more an ordinary user may outside than the attempts below ask for. */
function freeAttempts(stage: Stage, as: As): Step[] {
  const tools = join(stage.project, 'tools/probe')
  const locked = join(stage.project, 'locked.txt')
  const both = [asNamespaceRoot('careless world', '/bin/sh', '-c', careless(stage))]
  if (as === 'root') return both
  const raw = Object.entries(RAW_SOCKETS).map(([name, args]) => asNamespaceRoot(name, tools, ...args))
  return [...both, ...raw, ...asNamespaceRoots(tools), asNamespaceRoot('locked', 'cat', locked)]
}

function attempts(stage: Stage, victim: number): (Step | Step[])[] {
  const at = (path: string): string => join(stage.project, path)
  const tools = at('tools/probe')
  return [
    // First what must still find everything in place.
    { name: 'pids', op: 'list', path: '/proc' },
    sh('commands', 'cat /proc/[0-9]*/cmdline | tr "\\0" "\\n"'),
    sh('seccomp', 'cat /proc/self/status; (sh -c "sh -c \'cat /proc/self/status\'")'),
    probe('unshare with fs', 'call', 272, '0x10000200'),
    ...['unshare-user-high', 'clone-user', 'clone3', 'tiocsti-high', 'tioclinux', 'tiocnotty'].map((name) =>
      probe(name),
    ),
    probe('tcgets', 'call', 16, MINUS, 0x5401, 0),
    probe('winsize', 'call', 16, MINUS, 0x5413, 0),
    sh('fork', 'sh -c "echo child & wait"'),
    { name: 'threads', op: 'exec', argv: [stage.product.node, '-e', THREADS] },
    sh('nest', 'unshare --user --map-root-user true && echo nested'),
    ...Object.entries(CALLS).map(([name, { call }]) => probe(name, 'call', ...call)),
    ...FAMILIES.map((family) => probe(`family ${family}`, 'call', 41, family, 2, 0)),
    ...FAMILIES.map((family) => probe(`raw family ${family}`, 'call', 41, family, 3, family === 2 ? 1 : 0)),
    ...Object.entries(RAW_SOCKETS).map(([name, args]) => probe(name, ...args)),
    probe('inet', 'call', 41, 2, 1, 0),
    probe('inet6', 'call', 41, 10, 1, 0),
    probe('unix stream', 'call', 41, 1, 1, 0),
    probe('unix datagram', 'call', 41, 1, 2, 0),
    sh('keys', 'cat /proc/keys /proc/key-users 2>&1; true'),
    // C-25: the victim's number means nothing inside, and pid 1 is not the agent's.
    probe('trace victim', 'call', 101, 16, victim, 0, 0),
    probe('trace init', 'call', 101, 16, 1, 0, 0),
    probe('read victim', 'call', 310, victim, 0, 0, 0, 0, 0),
    sh(
      'memory',
      `for p in ${victim} 1; do head -c 1 /proc/$p/mem >/dev/null; cat /proc/$p/environ; done 2>&1`,
    ),
    // C-27
    probe('run-from-memory', 'run-from-memory', tools),
    sh('renamed', `cp ${tools} ${at('harmless')} && ${at('harmless')} unshare-user`),
    sh('by loader', `/lib64/ld-linux-x86-64.so.2 $(command -v cat) ${at('.env')}`),
    sh('loader works', `/lib64/ld-linux-x86-64.so.2 $(command -v cat) ${at('plain.txt')}`),
    // C-31
    sh(
      'nodes',
      `mknod ${at('char')} c 1 3; mknod ${at('block')} b 7 0; mknod /tmp/char c 1 3; ls ${at('char')} ${at('block')} /tmp/char; rm -f /tmp/char`,
    ),
    sh('fifo', `mkfifo ${at('fifo')} && echo made`),
    // C-33
    sh(
      'host files',
      [
        ...WRITABLE_ONLY_BY_HOST,
        '/sys/fs/cgroup/cgroup.procs',
        '/sys/fs/cgroup/release_agent',
        at('plain.txt'),
      ]
        .map(opens)
        .join('; '),
    ),
    sh('sysrq', 'echo h > /proc/sysrq-trigger && echo TOOK; true'),
    sh(
      'cgroup',
      'mkdir /sys/fs/cgroup/ambit-case 2>&1 && rmdir /sys/fs/cgroup/ambit-case && echo MADE; true',
    ),
    // C-34
    { name: 'shadow', op: 'read', path: '/etc/shadow' },
    { name: 'locked', op: 'read', path: at('locked.txt') },
    { name: 'plain', op: 'read', path: at('plain.txt') },
    // C-35
    sh('old roots', oldRoots(stage)),
    // C-38
    // gVisor shows a process' program to that process alone.
    sh(
      'executables',
      `for e in /proc/self/exe /proc/[0-9]*/exe; do ${opens('$e')}; done; sh -c 'readlink /proc/self/exe; ls -l /proc/self/exe'; readlink /proc/[0-9]*/exe`,
    ),
    // C-41, last: it ends the victim where it can.
    sh('signal', `kill -TERM ${victim} && echo SENT`),
  ]
}

attack('C-03', 'keeps the filter in every descendant', async (as) => {
  const { inside, outside } = await scene(as)
  const modes = (steps: Steps): string[] =>
    [...(steps.result('seccomp').value.stdout as string).matchAll(/^Seccomp:\s*(\d)/gm)].map(
      (match) => match[1] ?? '',
    )
  assert.deepEqual(modes(inside), ['2', '2'])
  assert.deepEqual(modes(outside), ['0', '0'], 'control: outside there is none')
  return 'mode 2 in shell and grandchild'
})

onX64('C-06', 'masks the flags of unshare instead of comparing them', async (as) => {
  const { inside, outside } = await scene(as)
  assert.equal(outside.result('unshare with fs').value, 'ok', 'control: with a further flag it works outside')
  assert.equal(inside.result('unshare with fs').value, 'EPERM')
  assert.match(outside.result('unshare-user-high').value, /^(ok|EINVAL)$/, 'control: the kernel is asked')
  assert.equal(inside.result('unshare-user-high').value, 'EPERM')
  return 'EPERM with other bits set'
})

attack('C-07', 'refuses a user namespace by clone', async (as) => {
  const { inside, outside } = await scene(as)
  assert.equal(outside.result('clone-user').value, 'ok', 'control')
  assert.equal(inside.result('clone-user').value, 'EPERM')
  return 'EPERM'
})

attack('C-08', 'answers clone3 so that libc falls back', async (as) => {
  const { inside, outside } = await scene(as)
  assert.match(outside.result('clone3').value, /^E(INVAL|FAULT)$/, 'control: the kernel knows the call')
  assert.equal(inside.result('clone3').value, 'ENOSYS')
  return 'ENOSYS'
})

attack('C-09', 'lets processes and threads be made', async (as) => {
  const { inside } = await scene(as)
  assert.match(inside.result('fork').value.stdout, /child/)
  assert.match(inside.result('threads').value.stdout, /thread 7/, JSON.stringify(inside.result('threads')))
  return 'fork and threads work'
})

attack('C-10', 'keeps nesting refused whatever the limits say', async (as) => {
  const { inside, outside, sysctls } = await scene(as)
  assert.match(outside.result('nest').value.stdout, /nested/, 'control: it nests outside')
  assert.doesNotMatch(inside.result('nest').value.stdout, /nested/)
  assert.doesNotMatch(inside.result('host files').value.stdout, /max_user_namespaces/)
  assert.deepEqual(hostSettings(), sysctls)
  return 'limit not writable, nesting refused'
})

onX64('C-12', 'refuses to enter namespaces, to mount and to change the root', async (as) =>
  refusedCalls(await scene(as), as, MOUNTING, /^EPERM$/),
)

onX64('C-13', 'refuses the newer mount calls', async (as) =>
  refusedCalls(await scene(as), as, NEW_MOUNTING, /^E(PERM|NOSYS)$/),
)

attack('C-15', 'refuses terminal input with high bits in the request', async (as) => {
  const { inside, outside } = await scene(as)
  assert.equal(outside.result('tiocsti-high').value, 'EBADF', 'control: the kernel is asked')
  assert.equal(inside.result('tiocsti-high').value, 'EPERM')
  return 'EPERM'
})

attack('C-16', 'refuses the console’s paste request', async (as) => {
  const { inside, outside } = await scene(as)
  assert.equal(outside.result('tioclinux').value, 'EBADF', 'control: the kernel is asked')
  assert.equal(inside.result('tioclinux').value, 'EPERM')
  return 'EPERM'
})

onX64('C-17', 'lets ordinary terminal requests through', async (as) => {
  const { inside } = await scene(as)
  for (const name of ['tiocnotty', 'tcgets', 'winsize'])
    assert.equal(inside.result(name).value, 'EBADF', name)
  assert.equal(inside.result('tioclinux').value, 'EPERM', 'control: the filter does look at requests')
  return '3 requests reach the kernel'
})

onX64('C-21', 'refuses sockets of machines and of the kernel’s ciphers', async (as) =>
  familiesRefused(await scene(as), [40, 38]),
)

onX64('C-22', 'refuses packet and raw sockets', async (as) => {
  const { inside, outside } = await scene(as)
  for (const name of Object.keys(RAW_SOCKETS))
    assert.match(mostAllowed(outside, name, as, 'namespace'), /^ok/, `control: ${name}`)
  assert.equal(inside.result('raw icmp').value, 'EPERM')
  assert.match(inside.result('socket-packet').value, /^EAFNOSUPPORT$/)
  assert.match(inside.result('inet').value, /^ok/, 'control: an ordinary socket is made')
  return `raw ${inside.result('raw icmp').value}, packet ${inside.result('socket-packet').value}`
})

onX64('C-23', 'makes no socket of another family', async (as) => {
  const seen = await scene(as)
  const made = FAMILIES.filter((family) =>
    String(seen.inside.result(`family ${family}`).value).startsWith('ok'),
  )
  assert.ok(
    made.every((family) => ADMITTED.includes(family)),
    `families ${made.join(' ')} can be made`,
  )
  for (const family of [1, 2, 10]) assert.ok(made.includes(family), `control: family ${family} is made`)
  return familiesRefused(
    seen,
    FAMILIES.filter((family) => !ADMITTED.includes(family)),
  )
})

function familiesRefused({ inside, outside }: Scene, families: readonly number[]): string {
  for (const family of families)
    for (const name of [`family ${family}`, `raw family ${family}`])
      assert.equal(inside.result(name).value, 'EAFNOSUPPORT', name)
  const known = FAMILIES.filter((family) =>
    /^(ok|EPERM|ESOCKT|EPROTO)/.test(outside.result(`family ${family}`).value),
  )
  assert.ok(known.length > 3, `control: the kernel outside knows ${known.length} families`)
  return `${families.length} families EAFNOSUPPORT (kernel knows ${known.length})`
}

onX64('C-24', 'keeps the keyrings of the kernel away', async (as) => {
  const seen = await scene(as)
  const said = refusedCalls(seen, as, KEYS, /^EPERM$/)
  const ring = /keyring/
  assert.match(seen.outside.result('keys').value.stdout, ring, 'control: outside they are listed')
  assert.doesNotMatch(
    seen.inside.result('keys').value.stdout,
    ring,
    `listed: ${seen.inside.result('keys').value.stdout}`,
  )
  return said
})

onX64('C-25', 'neither traces nor reads a process outside or the session’s own first process', async (as) => {
  const { inside, outside } = await scene(as)
  assert.match(outside.result('trace victim').value, /^(ok|EPERM)/, 'control: outside the process exists')
  assert.doesNotMatch(outside.result('trace victim').value, /ESRCH/)
  assert.match(outside.result('read victim').value, /^ok/, 'control: outside an empty read is allowed')
  for (const name of ['trace victim', 'trace init', 'read victim'])
    assert.match(inside.result(name).value, /^E(SRCH|PERM)$/, name)
  const { stdout } = inside.result('memory').value
  assert.doesNotMatch(stdout, /PATH=|HOME=/, 'an environment can be read')
  return `victim ${inside.result('trace victim').value}, first process ${inside.result('trace init').value}`
})

onX64('C-26', 'refuses the calls that reach deep into the kernel', async (as) =>
  refusedCalls(await scene(as), as, KERNEL, /^E(PERM|NOSYS)$/),
)

onX64('C-27', 'gives a program by another path or from memory nothing more', async (as) => {
  const { inside, outside } = await scene(as)
  assert.match(outside.result('run-from-memory').value, /^ok/, 'control')
  assert.equal(outside.result('renamed').value.stdout.trim(), 'ok', 'control: outside it makes a namespace')
  assert.equal(outside.result('by loader').value.stdout, SECRET, 'control: outside the loader reads it')
  assert.equal(inside.result('run-from-memory').value.split('\n')[0], 'EPERM', 'from memory')
  assert.equal(inside.result('renamed').value.stdout.trim(), 'EPERM', 'renamed')
  assert.equal(inside.result('by loader').value.stdout, '')
  assert.equal(inside.result('loader works').value.stdout, 'plain', 'control: the loader does run')
  return 'they run and are refused the same'
})

attack('C-29', 'shows only the processes of the session', async (as) => {
  const { inside, outside } = await scene(as)
  const count = (steps: Steps): number =>
    (steps.result('pids').value as string[]).filter((name) => /^\d+$/.test(name)).length
  assert.match(
    outside.result('commands').value.stdout,
    /containment-more/,
    'control: outside this test is seen',
  )
  assert.doesNotMatch(inside.result('commands').value.stdout, /containment-more/)
  assert.ok(count(inside) < 15, `${count(inside)} processes`)
  return `${count(inside)} processes (outside ${count(outside)})`
})

attack('C-31', 'makes no device node', async (as) => {
  const { inside, outside, stage } = await scene(as)
  if (as === 'root')
    assert.match(outside.result('nodes').value.stdout, /\/tmp\/char/, 'control: root makes them outside')
  assert.equal(inside.result('nodes').value.stdout, '')
  assert.match(
    inside.result('fifo').value.stdout + outside.result('fifo').value.stdout,
    /made/,
    'control: a FIFO can be made',
  )
  if (as === 'root') return 'none made'
  for (const name of ['char', 'block']) assert.ok(!existsSync(join(stage.project, name)))
  return `none made${BY_KERNEL}`
})

attack('C-33', 'writes no switch of the kernel and no control group', async (as) => {
  const { inside, outside, stage, sysctls } = await scene(as)
  const opened = inside.result('host files').value.stdout as string
  // Later versions of gVisor have a file of this name that opens, and takes no word.
  const inert = RUNTIME === 'container' ? /^OPENED \/proc\/sysrq-trigger\n/ : /(?!)/
  const opens = opened.replace(inert, '').trim()
  assert.equal(opens, `OPENED ${join(stage.project, 'plain.txt')}`, 'only the control can be opened')
  assert.doesNotMatch(inside.result('sysrq').value.stdout, /TOOK/)
  if (as === 'root')
    assert.match(outside.result('host files').value.stdout, /core_pattern/, 'control: root can outside')
  assert.doesNotMatch(inside.result('cgroup').value.stdout, /MADE/)
  assert.deepEqual(hostSettings(), sysctls)
  return `none opens for writing${as === 'user' ? BY_KERNEL : ''}`
})

attack('C-34', 'reads neither the shadow file nor a file without any permission', async (as) => {
  const { inside, outside } = await scene(as)
  if (as === 'root') {
    for (const name of ['shadow', 'locked'])
      assert.ok(outside.result(name).ok, `control: root reads ${name} outside`)
  } else assert.equal(mostAllowed(outside, 'locked', as, 'namespace'), SECRET, 'control: its owner can')
  for (const name of ['shadow', 'locked'])
    assert.match(inside.result(name).error ?? 'it was read', /^(ENOENT|EACCES|EPERM)$/, name)
  assert.equal(inside.result('plain').value, 'plain', 'control')
  const { error = 'read' } = outside.result('shadow')
  return `mode 000 ${inside.result('locked').error}; shadow ${inside.result('shadow').error}, outside ${error}`
})

attack('C-35', 'leaves nothing of the old root in sight', async (as) => {
  const { inside, outside, stage } = await scene(as)
  const shown = inside.result('old roots').value.stdout as string
  const left = mostAllowed(outside, 'careless world', 'user', 'namespace')
  assert.match(left, /^\/oldroot$/m, `control: a careless world shows the directory: ${left}`)
  assert.ok(left.includes(`/oldroot${stage.outside}`), `control: and what lies below it: ${left}`)
  assert.doesNotMatch(shown, /old_?root|new_?root/)
  assert.ok(!shown.includes(stage.outside))
  assert.match(shown, /^usr$/m, 'control: the listing shows the root')
  return 'no such directory or mount'
})

attack('C-38', 'opens no program of the session’s making for writing', async (as) => {
  const { inside, stage } = await scene(as)
  const opened = (inside.result('executables').value.stdout as string).match(/^OPENED/gm) ?? []
  assert.deepEqual(opened, [])
  assert.match(
    inside.result('executables').value.stdout,
    /tools\/|\/sh|\/dash|\/ls/,
    'control: links are readable',
  )
  assert.match(
    inside.result('host files').value.stdout,
    /OPENED/,
    'control: an ordinary file can be opened so',
  )
  assert.equal(digest(stage.product.ambit), digest(join(import.meta.dirname, '../../ambit')))
  return 'none can be opened'
})

const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

attack('C-41', 'signals no process outside', async (as) => {
  const { inside, outside, victim } = await scene(as)
  assert.match(outside.result('signal').value.stdout, /SENT/, 'control: the same user can, outside')
  assert.doesNotMatch(inside.result('signal').value.stdout, /SENT/)
  assert.equal(victim.exitCode, null)
  assert.equal(victim.signalCode, null)
  return 'not sent, the process lives'
})

attack('C-37', 'starts in no directory outside the view', async (as) => {
  const { stage } = await scene(as)
  const held = openSync(stage.outside, 'r')
  const options = { cwd: '/proc/self/fd/3', extraFds: [held] }
  const look = ['/bin/sh', '-c', 'pwd -P; cat secret.txt; ls; true']
  try {
    const free = await stage.command(look, options)
    assert.ok(free.stdout.includes(SECRET), 'control: without Ambit it starts there')
    const ran = await stage.session(look, options)
    assert.ok(!ran.stdout.includes(SECRET) && !ran.stdout.includes('secret.txt'), ran.stdout)
    return ran.stdout ? 'starts inside the view' : `refused, exit ${ran.code}`
  } finally {
    closeSync(held)
  }
})

attack('C-47', 'takes a command or a variable for no option of its tools', async (as) => {
  const { stage } = await scene(as)
  const fine = await stage.session(['cat', join(stage.project, 'plain.txt')])
  assert.equal(fine.stdout, 'plain', 'control: a command runs')
  for (const argv of [
    ['--dev-bind', '/', '/', 'cat', join(stage.outside, 'secret.txt')],
    ['--', 'cat', join(stage.outside, 'secret.txt')],
    ['--bind=/', 'cat', join(stage.outside, 'secret.txt')],
  ]) {
    const ran = await stage.session(argv)
    assert.ok(!ran.stdout.includes(SECRET), argv.join(' '))
    assert.notEqual(ran.code, 0, argv.join(' '))
  }
  return '3 commands are data'
})
