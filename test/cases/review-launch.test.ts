/** Holes that a hostile review found in the launcher and in the host's own processes, named after the nearest case. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { attack } from '../support/case.ts'
import { areGone, kernelsOf, population } from '../support/kernels.ts'
import { endProcesses, eventually, processesWith } from '../support/processes.ts'
import { PATIENCE, RUNTIME } from '../support/runtime.ts'
import { lines, PYTHON } from '../support/script.ts'
import { describe, Stage } from '../support/stage.ts'

const later = async (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms))

attack('C-41', 'processes that wake each other without end stand still in a freeze', async (as) => {
  const stage = new Stage(as)
  await stage.uncontrolled([])
  const file = join(stage.project, 'count')
  const probe = join(stage.project, 'tools/probe')
  const count = (): number => (existsSync(file) ? Number.parseInt(readFileSync(file, 'utf8') || '0', 10) : 0)
  const running = stage.session([probe, 'keep-awake', '24', file])
  assert.ok(await eventually(() => count() > 1000, 20_000 * PATIENCE), 'control: they run')
  const id = /s[0-9a-z]{8,}-[0-9a-z]+/.exec((await stage.ambit(['sessions', '--json'])).stdout)?.[0] ?? ''
  for (let round = 0; round < 3; round++) {
    assert.equal((await stage.ambit(['freeze', id])).code, 0)
    await later(400)
    const before = count()
    await later(1200)
    assert.equal(count(), before, `round ${round}: they went on while frozen`)
    assert.equal((await stage.ambit(['thaw', id])).code, 0)
    assert.ok(await eventually(() => count() > before, 5000), 'control: they go on when thawed')
  }
  await stage.ambit(['kill', id])
  await running
  return '24 processes still, three times'
})

attack('R-05', 'a flood of programs is recorded in bounded records and never outrun', async (as) => {
  const stage = new Stage(as)
  // As many as a moment allows: each with arguments that grow sixfold in JSON, by every way of starting a program.
  const script = lines(
    'import ctypes, os, sys, time',
    'big = ["/bin/true"] + ["\\x01" * 30000] * 30',
    'made = 0',
    `end = time.time() + ${3 * PATIENCE}`,
    // A slow kernel on a busy machine starts few in that time; the size of a record is seen on a few dozen, too.
    'while time.time() < end or made < 24:',
    '  for way in range(3):',
    '    pid = os.fork() if way else os.posix_spawn("/bin/true", big, {})',
    '    if way and pid == 0:',
    '      if way == 1: os.execve(os.open("/bin/true", os.O_RDONLY), big, {})',
    '      os.execv("/bin/true", big)',
    '    os.waitpid(pid, 0); made += 1',
    'print(made)',
  )
  const ran = await stage.session([PYTHON, '-c', script])
  assert.equal(ran.code, 0, describe(ran))
  const made = Number(ran.stdout)
  const journal = join(stage.ambitHome, 'state/sessions', ran.summary.session, 'journal/launch.wal')
  const size = statSync(journal).size
  assert.ok(made > 20, `control: ${made} programs ran`)
  const launches = readFileSync(journal, 'latin1').match(/"process\.launch"/g)?.length ?? 0
  assert.ok(launches >= made, `${launches} of ${made} are on record`)
  assert.ok(size / launches < 24 << 10, `${Math.round(size / launches)} bytes a launch`)
  return `${made} in 3 s, all recorded, ${Math.round(size / launches)} bytes each`
})

attack('R-05', 'a line of 100 MB is passed on whole, and nothing piles up for it', async (as) => {
  const stage = new Stage(as)
  let most = 0
  const watch = setInterval(() => {
    for (const pid of helpersOf(stage).filter((pid) => read(pid, 'comm').trim() === 'ambit-launch'))
      most = Math.max(most, Number(/^VmHWM:\s*(\d+)/m.exec(read(pid, 'status'))?.[1] ?? 0))
  }, 200)
  const ran = await stage.session(['/bin/sh', '-c', 'head -c 100000000 /dev/zero | tr "\\0" x; sleep 0.5'])
  clearInterval(watch)
  assert.equal(ran.stdout.length, 100_000_000, ran.stderr)
  assert.ok(most > 0 && most < 64 << 10, `the launcher took ${most} KiB`)
  return `whole; the launcher at ${Math.round(most / 1024)} MiB`
})

attack('R-06', 'a session that spins on every core is still seen and ended at once', async (as) => {
  const stage = new Stage(as)
  const spin =
    'i=0; while [ $i -lt 16 ]; do (while :; do :; done) & i=$((i+1)); done; echo spinning; echo > up; wait'
  const calm = await stage.ambit(['sessions', '--json'])
  const running = stage.session(['/bin/sh', '-c', spin])
  let id = ''
  const listed = async (): Promise<boolean> => {
    id = /s[0-9a-z]{8,}-[0-9a-z]+/.exec((await stage.ambit(['sessions', '--json'])).stdout)?.[0] ?? ''
    return id !== ''
  }
  assert.ok(await eventually(listed, 20_000 * PATIENCE))
  assert.ok(
    await eventually(() => existsSync(join(stage.project, 'up')), 30_000 * PATIENCE),
    'control: it runs',
  )
  await later(500)
  const asked = await stage.ambit(['sessions', '--json'])
  const killed = await stage.ambit(['kill', id])
  const ran = await running
  assert.match(ran.stdout, /spinning/, describe(ran))
  // Of what it takes in peace, where that is slow.
  const most = (ms: number): number => Math.max(ms, 30 * calm.ms)
  assert.ok(
    asked.ms < most(5000) && killed.ms < most(8000),
    `${asked.ms} ms to list, ${calm.ms} in peace, ${killed.ms} ms to end`,
  )
  assert.equal(ran.summary.outcome, 'killed')
  return `listed in ${Math.round(asked.ms)} ms, ended in ${Math.round(killed.ms)} ms`
})

attack(
  'R-04',
  'descriptors, pipes and watches that run out inside leave Ambit and others working',
  async (as) => {
    const stage = new Stage(as, { files: { 'a.txt': 'a' } })
    const script = lines(
      'import ctypes, errno, os, socket, time',
      'c = ctypes.CDLL(None, use_errno=True)',
      'def use_up(make):',
      '  n = 0',
      '  try:',
      '    while n < 200000: make(); n += 1',
      '  except OSError: pass',
      '  return n',
      'keep = []',
      'def watch():',
      '  if c.inotify_init1(0) < 0: raise OSError(ctypes.get_errno(), "inotify")',
      'for kind, make in [("inotify", watch), ("files", lambda: keep.append(os.open("a.txt", 0))), ("pipes", os.pipe), ("sockets", lambda: keep.append(socket.socketpair()))]:',
      '  pid = os.fork()',
      '  if pid == 0:',
      '    print(kind, use_up(make), flush=True); time.sleep(3); os._exit(0)',
      'time.sleep(1.5)',
      'try: print("read", open("a.txt").read(), flush=True)',
      'except OSError as e: print("read", errno.errorcode[e.errno], flush=True)',
      'for n in range(4): os.wait()',
      'print("after", open("a.txt").read(), flush=True)',
    )
    const running = stage.session([PYTHON, '-c', script])
    await later(2500)
    const other = await stage.session(['cat', join(stage.project, 'a.txt')])
    const ran = await running
    assert.equal(ran.code, 0, describe(ran))
    const counts = [...ran.stdout.matchAll(/^(files|pipes|sockets|inotify) (\d+)$/gm)].map((m) =>
      Number(m[2]),
    )
    assert.equal(counts.length, 4, describe(ran))
    assert.ok(
      counts.every((count) => count > 10 && count < 200_000),
      `control: they do run out: ${counts.join()}`,
    )
    assert.match(ran.stdout, /^read (a|EMFILE|ENFILE)$/m, 'the view still answers')
    assert.match(ran.stdout, /^after a$/m, 'and serves again')
    assert.equal(other.stdout, 'a', `another session works\n${describe(other)}`)
    return `ran out at ${counts.join(', ')}; both sessions work`
  },
)

attack('R-02', 'when memory runs out the agent goes before its user', async (as) => {
  const stage = new Stage(as)
  if (RUNTIME !== 'os-sandbox') return await kernelGoesFirst(stage)
  const show =
    'cat /proc/self/oom_score_adj; echo -900 > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj'
  const ran = await stage.session(['/bin/sh', '-c', `${show}; echo 0 > /proc/self/oom_score_adj`])
  const [first, second] = ran.stdout.trim().split('\n').map(Number)
  assert.equal(first, 500, describe(ran))
  assert.ok((second ?? -1) >= 0, `it made itself ${second}`)
  assert.ok(
    Number(readFileSync('/proc/self/oom_score_adj', 'utf8')) < 500,
    'control: the user’s own stand lower',
  )
  return `${first}; it cannot go below 0`
})

/** Where the agent has a kernel of its own, it is that kernel whom the host's would take. */
async function kernelGoesFirst(stage: Stage): Promise<string> {
  const up = join(stage.project, 'up')
  const running = stage.session([
    '/bin/sh',
    '-c',
    `echo -900 > /proc/self/oom_score_adj; echo > ${up}; sleep 600`,
  ])
  assert.ok(await eventually(() => existsSync(up), 20_000 * PATIENCE), 'control: it runs')
  const scores = kernelsOf(stage).map((pid) => Number(read(String(pid), 'oom_score_adj')))
  for (const { id } of JSON.parse((await stage.ambit(['sessions', '--json'])).stdout) as { id: string }[])
    await stage.ambit(['kill', id])
  await running
  assert.ok(scores.length > 0 && scores.every((score) => score >= 500), `the kernel's: ${scores.join()}`)
  return `${scores.join(' ')} for the agent's kernel, whatever the agent writes`
}

attack('C-48', 'git on the host is never one that the project brings', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  await stage.command(['git', 'init', '-q', '.'])
  const mark = join(stage.outside, 'ran')
  // An earlier session leaves a program where an npm script's PATH begins.
  const plant = `mkdir -p node_modules/.bin && printf '#!/bin/sh\\necho git >> ${mark}\\n' > node_modules/.bin/git && chmod 755 node_modules/.bin/git`
  const first = await stage.session(['/bin/sh', '-c', plant])
  assert.equal(first.code, 0, describe(first))
  const PATH = `${join(stage.project, 'node_modules/.bin')}:/usr/bin:/bin`
  const second = await stage.session(['/bin/true'], { env: { PATH } })
  assert.equal(second.code, 0, describe(second))
  assert.ok(!existsSync(mark), 'the agent’s git ran on the host')
  await stage.command(['/bin/sh', '-c', 'git status'], { env: { PATH } })
  assert.ok(existsSync(mark), 'control: with that PATH it is the one that runs')
  return 'not run'
})

attack('C-46', 'processes that flee their group, session and parent are counted and end', async (as) => {
  const stage = new Stage(as)
  const mark = `77${process.pid}.${as === 'root' ? 1 : 2}5`
  // Double forks into sessions of their own, a subreaper, stopped and tracing relatives: then the command ends.
  const script = lines(
    'import ctypes, os, signal, sys, time',
    'c = ctypes.CDLL(None); c.prctl(36, 1, 0, 0, 0)',
    'for n in range(6):',
    '  if os.fork() == 0:',
    '    os.setsid()',
    '    if os.fork() == 0:',
    '      for s in (1, 2, 3, 13, 14, 15, 18, 20): signal.signal(s, signal.SIG_IGN)',
    '      if n % 2: os.kill(os.getpid(), signal.SIGSTOP)',
    '      os.execv("/bin/sleep", ["sleep", sys.argv[1]])',
    '    os._exit(0)',
    'for p in os.listdir("/proc"):',
    '  if p.isdigit() and p != str(os.getpid()):',
    '    try: os.kill(int(p), signal.SIGSTOP if p == "1" else 0)',
    '    except OSError: pass',
    'print("trace", c.ptrace(16, 1, 0, 0)); time.sleep(0.7)',
  )
  const free = await stage.command([PYTHON, '-c', script, mark])
  assert.equal(free.code, 0, describe(free))
  assert.ok(processesWith(mark).length >= 3, 'control: without Ambit they stay')
  endProcesses(mark)
  let seen: readonly number[] = []
  const look = (): boolean => (seen = population(stage, mark)).length > 0
  const ran = await stage.session([PYTHON, '-c', script, mark], {
    onStart: () => void eventually(look, 30_000),
  })
  assert.equal(ran.code, 0, describe(ran))
  assert.match(ran.stdout, /trace -1/)
  assert.ok(seen.length > 0, 'control: they are seen')
  assert.ok(await eventually(() => population(stage, mark).length === 0 && areGone(seen)), 'some are left')
  return 'all gone'
})

attack(
  'A-17',
  'no helper of a session shows a secret in its environment or on its command line',
  async (as) => {
    const stage = new Stage(as, { files: { 'a.txt': 'a' } })
    const secret = `planted-secret-${process.pid}`
    const seen: string[] = []
    let helpers: string[] = []
    const running = stage.session(['/bin/sh', '-c', 'echo up; sleep 3; cat /proc/[0-9]*/environ'], {
      env: { PLANTED_TOKEN: secret, AWS_SECRET_ACCESS_KEY: secret },
    })
    assert.ok(
      await eventually(() => {
        helpers = helpersOf(stage)
        const has = (name: string): boolean => helpers.some((pid) => read(pid, 'comm').trim() === name)
        const stands = RUNTIME === 'os-sandbox' ? has('sleep') : kernelsOf(stage).length > 0
        return has('ambit-launch') && has('ambit-view') && stands && (RUNTIME !== 'microvm' || has('swtpm'))
      }, 20_000 * PATIENCE),
    )
    // The environment of `ambit run` is its caller's, and so is its supervisor's; what that starts inherits nothing of it.
    for (const pid of helpers)
      if (!['ambit-start', 'node', 'MainThread'].includes(read(pid, 'comm').trim()))
        seen.push(...['environ', 'cmdline'].map((file) => `${read(pid, 'comm').trim()} ${read(pid, file)}`))
    const ran = await running
    assert.ok(seen.length >= 4, `control: ${helpers.length} helpers were looked at`)
    assert.deepEqual(
      seen.filter((text) => text.includes(secret)),
      [],
    )
    assert.ok(!ran.stdout.includes(secret), 'it is visible inside')
    assert.match(ran.stdout, /up/)
    return `${new Set(seen.map((text) => text.split(' ')[0])).size} kinds of helper, none shows it`
  },
)

function read(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return ''
  }
}

/** Everything that descends from a process with the stage in its command line. */
function helpersOf(stage: Stage): string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  const parents = new Map(pids.map((pid) => [pid, /^PPid:\s*(\d+)/m.exec(read(pid, 'status'))?.[1] ?? '0']))
  const own = new Set(pids.filter((pid) => read(pid, 'cmdline').includes(stage.root)))
  const descends = (pid: string): boolean =>
    own.has(pid) || (parents.has(pid) && descends(parents.get(pid) ?? ''))
  return pids.filter(descends)
}
