/** The container runtime: gVisor's kernel for the agent, and all that os-sandbox gives around it. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as later } from 'node:timers/promises'
import { lookForRunsc } from '../../src/runtime/gvisor.ts'
import { attackIn } from '../support/case.ts'
import { labMissing } from '../support/lab.ts'
import { netStage, PUBLIC, rule, watching } from '../support/net-stage.ts'
import { eventually } from '../support/processes.ts'
import { describe, Stage } from '../support/stage.ts'
import { atTerminal } from '../support/terminal.ts'
import { account, type As, unavailable } from '../support/users.ts'

const missing = lookForRunsc() ? null : 'runsc is not installed'
const attack = attackIn(missing)
const life = asBoth(missing)
const network = asBoth(missing ?? labMissing)

/** What no catalogued attack names. */
function asBoth(reason: string | null) {
  return (title: string, body: (as: As) => Promise<unknown>): void => {
    for (const as of ['user', 'root'] as const)
      test(`container: ${title}, as ${as}`, { skip: reason ?? unavailable(as) ?? false }, async () => {
        await body(as)
      })
  }
}

const ISOLATION = { runtime: 'container', limits: 'partly', memory: '2GiB', processes: 256, wallclock: '2m' }
const SECRET = 'the secret outside'

const stageOf = (as: As): Stage =>
  new Stage(as, {
    files: { 'notes.txt': 'notes\n', '.env': SECRET, 'run.sh': '#!/bin/sh\necho ran\n' },
    spec: {
      isolation: ISOLATION,
      files: [
        { path: '${project}', access: 'read' },
        { path: '${workspace}', access: 'write' },
      ],
      hide: ['**/.env'],
    },
  })

attack('C-49', 'gives the agent another kernel, and the host a Sentry that is shut in', async (as) => {
  const stage = stageOf(as)
  stage.put(stage.outside, { 'secret.txt': SECRET })
  const sleep = `61${process.pid}.5`
  const running = stage.session(['/bin/sh', '-c', `cat /proc/version; id -u; sleep ${sleep}`])
  const confined = (): boolean => processes('runsc-sandbox', stage, /^Seccomp_filters:\t[2-9]$/m).length > 0
  assert.ok(await eventually(confined, 20_000), 'the Sentry runs under seccomp')
  const asked = process.getuid?.() === 0 && process.arch === 'x64' ? askSentry(stage) : 'filters: not asked'
  await stage.ambit(['kill', await sessionOf(stage)])
  const ran = await running
  assert.notEqual(ran.stdout.split('\n')[0], readFileSync('/proc/version', 'utf8').trim(), describe(ran))
  assert.notEqual(ran.stdout.split('\n')[1], '0')
  const enforced = (await stage.events()).find((event) => event.ambit.kind === 'session.enforced')
  const controls = JSON.stringify(enforced)
  for (const name of ['own-kernel', 'sentry-confined', 'gofer-confined', 'system-calls'])
    assert.match(controls, new RegExp(`"${name}","state":"fully"`))
  assert.match(controls, /"exec-sensor","state":"partly"/)
  assert.ok(await eventually(() => processes('runsc-', stage).length === 0), 'something of it is left')
  return `another kernel; Sentry and Gofer under seccomp, apart; ${asked}`
})

/** Calls by number and arguments (x86-64), and whether the Sentry's own filters let it make them. */
const SENTRY_CALLS: Readonly<Record<string, readonly [string, boolean]>> = {
  'read, of what it has': ['0:3', true],
  'a stream of the session’s network': ['41:2:0x80801', true],
  open: ['2', false],
  openat: ['257:0xffffff9c', false],
  openat2: ['437', false],
  execve: ['59', false],
  fork: ['57', false],
  mount: ['165', false],
  'a socket in files': ['41:1:0x80801', false],
  'a netlink socket': ['41:16:0x80803', false],
  'a packet socket': ['41:17:0x80803', false],
}

/** What CASES.md asks of sockets holds but for those of the session's own network, which leads to the gate alone. */
function askSentry(stage: Stage): string {
  const calls = Object.values(SENTRY_CALLS).map(([call]) => call)
  const sentry = processes('runsc-sandbox', stage, /^Seccomp_filters:\t[2-9]$/m)[0] ?? ''
  const ask = (pid: string): string[] =>
    execFileSync('python3', [FILTERS, pid, ...calls], { encoding: 'utf8' })
      .trim()
      .split('\n')
      .slice(1)
  const answers = ask(sentry)
  for (const [index, [name, [, allowed]]] of Object.entries(SENTRY_CALLS).entries())
    assert.equal(answers[index] === '0x7fff0000', allowed, `${name}: ${answers[index]}`)
  // `runsc` itself, which makes both.
  assert.deepEqual(new Set(ask(parentOf(sentry))), new Set(['0x7fff0000']), 'control: another may make them')
  return 'it may open no file and make no socket but of the session’s network'
}

const FILTERS = new URL('../support/filters.py', import.meta.url).pathname

const sessionOf = async (stage: Stage): Promise<string> =>
  /s[0-9a-z]{8,}-[0-9a-z]+/.exec((await stage.ambit(['sessions', '--json'])).stdout)?.[0] ?? ''

/** Pids by the beginning of their command line, of this stage's host uid. */
function processes(name: string, { as }: Stage, state = /^/): string[] {
  const read = (path: string): string => readFileSync(path, 'utf8')
  const own = (uid: number): boolean => (as === 'root' ? uid >= 61_184 : uid === account(as).uid)
  return readdirSync('/proc').filter((pid) => {
    try {
      const status = read(`/proc/${pid}/status`)
      const uid = Number(/^Uid:\t(\d+)/m.exec(status)?.[1])
      return own(uid) && state.test(status) && read(`/proc/${pid}/cmdline`).startsWith(name)
    } catch {
      return false // no process, or gone
    }
  })
}

/** Asks the kernel with a process of the Sentry's rights, of which its filter is no part (support/traces.py). */
life('keeps a Sentry that was taken over from all else in its cell', async (as) => {
  const stage = stageOf(as)
  const running = stage.session(['/bin/sh', '-c', `sleep 62${process.pid}.5`])
  const sentries = (): string[] => processes('runsc-sandbox', stage, /^Seccomp_filters:\t[2-9]$/m)
  assert.ok(await eventually(() => sentries().length > 0, 20_000), 'the Sentry runs')
  const enforced = async (): Promise<boolean> =>
    (await stage.events()).some((event) => event.ambit.kind === 'session.enforced')
  assert.ok(await eventually(enforced, 20_000), 'the guest stands')
  const sentry = sentries()[0] ?? ''
  const runsc = parentOf(sentry)
  const first = parentOf(runsc)
  const outside = parentOf(first)
  const gofer = processes('runsc-gofer', stage)[0] ?? ''
  const others = [first, runsc, gofer]
  const inCell = (pid: string): string => numbers(pid)[numbers(first).length - 1] ?? ''
  const ask = async (users: string, targets: readonly string[]): Promise<Record<string, string>> => {
    const numbered = targets.map(inCell)
    const ran = await stage.command(['python3', TRACES, users, first, ...numbered])
    assert.equal(ran.code, 0, describe(ran))
    const seen = JSON.parse(ran.stdout) as Record<string, string>
    return {
      ...Object.fromEntries(targets.map((pid, i) => [pid, seen[numbered[i] ?? ''] ?? ''])),
      new: seen['user namespace'] ?? '',
    }
  }
  const seen = await ask(sentry, others)
  for (const pid of others) assert.equal(seen[pid], 'EPERM', JSON.stringify(seen))
  assert.equal(seen.new, 'ENOSPC', 'nor does it make user namespaces')
  const lifted = await ask(first, [first, runsc])
  assert.deepEqual(
    lifted,
    { [first]: 'traced', [runsc]: 'traced', new: 'ENOSPC' },
    'control: in their user namespace',
  )
  assert.equal((await ask(outside, [])).new, 'made', 'control: outside the cell')
  await stage.ambit(['kill', await sessionOf(stage)])
  await running
})

const TRACES = new URL('../support/traces.py', import.meta.url).pathname

const numbers = (pid: string): string[] =>
  (/^NSpid:\t(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '').split('\t')

const parentOf = (pid: string): string =>
  /^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? ''

const WORK = `
cat notes.txt
cat .env; cat ${'$'}OUTSIDE
echo more >> notes.txt
echo x > /usr/x; echo x > /x
echo kept > $AMBIT_WORKSPACE/kept; mv $AMBIT_WORKSPACE/kept $AMBIT_WORKSPACE/moved
cp run.sh $AMBIT_WORKSPACE; cd $AMBIT_WORKSPACE; chmod +x run.sh; ./run.sh; /bin/true; no-such-command
kill -TERM $$
`

life('shows a guest the same files, and refuses it the same', async (as) => {
  const stage = stageOf(as)
  stage.put(stage.outside, { 'secret.txt': SECRET })
  const work = WORK.replace('$OUTSIDE', join(stage.outside, 'secret.txt'))
  const ran = await stage.session(['/bin/sh', '-c', work])
  assert.equal(ran.stdout, 'notes\nran\n', describe(ran))
  assert.equal(ran.code, 143, describe(ran))
  assert.equal(readFileSync(join(stage.workspace, 'moved'), 'utf8'), 'kept\n')
  assert.equal(readFileSync(join(stage.project, 'notes.txt'), 'utf8'), 'notes\n')
  const events = await stage.events()
  const launched = events.filter((event) => event.ambit.kind === 'process.launch')
  const paths = launched.map((event) => event.process.file.path)
  assert.ok(paths.includes(join(stage.workspace, 'run.sh')), paths.join(' '))
  assert.ok(
    launched.every((event) => event.process.file.hashes?.length === 1),
    'each has a digest',
  )
  return `as written: ${paths.length} launches recorded, hidden and outside files absent`
})

life('records a launch whose words gVisor cannot send, and none that found no program', async (as) => {
  const stage = stageOf(as)
  const ran = await stage.session([
    '/bin/sh',
    '-c',
    "no-such-command; /bin/echo $(printf '\\377'); x=$(printf %099999d 0); /bin/echo $x $x $x | wc -c; ls",
  ])
  assert.match(ran.stdout, /\n300000\nnotes.txt\n/, describe(ran))
  const launched = (await stage.events()).filter((event) => event.ambit.kind === 'process.launch')
  const paths = launched.map((event) => event.process.file.path.replace(/^\/usr/, ''))
  const unreported = '(not reported by gVisor)'
  assert.deepEqual(
    paths.slice(1).toSorted((a, b) => (a < b ? -1 : 1)),
    [unreported, unreported, '/bin/ls', '/bin/wc'],
    paths.join(' '),
  )
})

const LOOKS = `
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(256)
number = {"x86_64": 332, "aarch64": 291}[os.uname().machine]
for name, ask in ("kernel", lambda *words: libc.syscall(number, *words)), ("libc", libc.statx):
    for flag in 0, 0x800, 0x10000000:
        done = ask(-100, b"notes.txt", flag, 0x7ff, room)
        print(name, hex(flag), "ok" if done == 0 else errno.errorcode[ctypes.get_errno()])
    print(name, "size", int.from_bytes(room.raw[40:48], "little"))
`

life('shows files to ls and stat, whose flag old versions of gVisor refuse', async (as) => {
  const commands = ['ls -la', 'stat -c %s notes.txt', 'stat nothing', 'env -i /bin/ls', 'python3 looks.py']
  const stage = stageOf(as)
  stage.put(stage.project, { 'looks.py': LOOKS })
  const ran = await stage.session(['/bin/sh', '-c', commands.join('; echo "= $?"; ')])
  const [long, size, nothing, bare, looks] = ran.stdout.split(/= \d+\n/)
  assert.match(long ?? '', /^-rw\S+ .* 6 .* notes\.txt$/m, describe(ran))
  assert.equal(size, '6\n', describe(ran))
  assert.equal(nothing, '', describe(ran))
  assert.match(ran.stderr, /nothing.*No such file or directory/)
  assert.doesNotMatch(ran.stderr, /Invalid argument|preload/)
  assert.match(bare ?? '', /^notes\.txt$/m, 'without an environment, too')
  assert.match(looks ?? '', /^kernel 0x0 ok$/m, 'control: without the flag every version answers')
  assert.match(looks ?? '', /^libc 0x0 ok\nlibc 0x800 ok\nlibc 0x10000000 EINVAL\nlibc size 6$/m, looks)
  const refuses = /^kernel 0x800 EINVAL$/m.test(looks ?? '')
  return `both work; this version's own kernel ${refuses ? 'refuses' : 'takes'} the flag`
})

network('lets a guest out by the gate alone', async (as) => {
  const stage = await netStage(as, { spec: { isolation: ISOLATION } })
  const fetch = (url: string): string => `curl -s -m 10 ${url} || echo "refused $?"`
  const script = [fetch('https://good.test/'), fetch('https://evil.test/'), fetch(`http://${PUBLIC}/`)]
  const seen = await watching(() =>
    stage.session(['/bin/sh', '-c', script.join('; echo; ')], {
      spec: { network: [rule(stage, 'good.test')] },
    }),
  )
  assert.match(seen.value.stdout, /^hello\n/, describe(seen.value))
  assert.equal(seen.arrived.length, 1)
  assert.equal(seen.evil, 0)
  return 'one request to the named host, nothing else left'
})

life('hands a guest its input, and the end of it', async (as) => {
  const ran = await stageOf(as).session(['/bin/cat'], { input: 'typed\n' })
  assert.equal(ran.stdout, 'typed\n', describe(ran))
})

life('gives a guest a terminal', async (as) => {
  const stage = stageOf(as)
  const ran = await atTerminal(stage, stage.profile(), [
    '/bin/sh',
    '-c',
    'test -t 0 && stty size && echo on-a-tty',
  ])
  assert.match(ran.stdout, /on-a-tty/)
  return 'a terminal of its own'
})

attack('C-50', 'ends a guest that takes more memory than its profile says', async (as) => {
  const stage = stageOf(as)
  const run = (amount: number): ReturnType<Stage['session']> =>
    stage.session(
      [
        '/usr/bin/python3',
        '-c',
        `a = b"x" * (${amount} << 20); print("ok", len(a)); import time; time.sleep(3)`,
      ],
      {
        spec: { isolation: { ...ISOLATION, memory: '400MiB' } },
      },
    )
  const modest = await run(20)
  assert.match(modest.stdout, /^ok/m, `control: ${describe(modest)}`)
  const greedy = await run(1500)
  assert.equal(greedy.summary.outcome, 'killed', describe(greedy))
  assert.match(greedy.summary.reason ?? '', /memory/)
  return 'killed: memory, the Sentry counted'
})

life('freezes a guest and lets it go on', async (as) => {
  const stage = stageOf(as)
  const file = join(stage.workspace, 'count')
  const count = (): number => (existsSync(file) ? Number(readFileSync(file, 'utf8')) || 0 : 0)
  const running = stage.session(['/bin/sh', '-c', `i=0; while :; do i=$((i+1)); echo $i > ${file}; done`])
  assert.ok(await eventually(() => count() > 20, 20_000), 'control: it runs')
  const id = await sessionOf(stage)
  await stage.ambit(['freeze', id])
  await later(400)
  const before = count()
  await later(800)
  assert.equal(count(), before, 'it went on while frozen')
  await stage.ambit(['thaw', id])
  assert.ok(await eventually(() => count() > before, 5000), 'it goes on when thawed')
  await stage.ambit(['kill', id])
  await running
  assert.ok(await eventually(() => processes('runsc-', stage).length === 0), 'something of it is left')
  return 'still while frozen, then on'
})
