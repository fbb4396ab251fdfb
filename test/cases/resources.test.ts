/** R, and C-46: a session is bounded, and ends with everything in it. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { attack } from '../support/case.ts'
import { areGone, population } from '../support/kernels.ts'
import { endProcesses, eventually, processesWith } from '../support/processes.ts'
import { PATIENCE, RUNTIME } from '../support/runtime.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

const LIMITS = { runtime: 'os-sandbox', limits: 'partly', wallclock: '2m' }

/** A sleep that no other process on this machine runs. */
const uniqueSleep = (): string => `54${randomBytes(3).readUIntBE(0, 3)}.25`

attack('R-01', 'bounds a fork bomb while Ambit stays responsive', async (as) => {
  const stage = new Stage(as)
  const probe = join(stage.project, 'tools/probe')
  const prepare = await stage.uncontrolled([
    { name: 'free', op: 'probe', args: ['fork-many', '300'], timeout: 20_000 },
  ])
  assert.match(prepare.result('free').value, /^300 /, 'control: outside 300 children are made')
  const calm = await stage.ambit(['sessions', '--json'])
  let answered = 0
  const running = stage.session(['/bin/sh', '-c', `${probe} fork-many 300; sleep 1`], {
    spec: { isolation: { ...LIMITS, processes: 64 } },
    onStart: () => {
      const ask = async (): Promise<void> => {
        const asked = await stage.ambit(['sessions', '--json'])
        answered = asked.code === 0 ? asked.ms : -1
      }
      setTimeout(() => void ask(), 1500)
    },
  })
  const ran = await running
  const made = Number(/^(\d+) /m.exec(ran.stdout)?.[1] ?? Number.NaN)
  const killed = ran.summary.outcome === 'killed'
  assert.ok(killed || made < 70, `made ${made} of 300, outcome ${ran.summary.outcome}\n${describe(ran)}`)
  await eventually(() => answered !== 0)
  const most = Math.max(5000, 30 * calm.ms)
  assert.ok(answered > 0 && answered < most, `ambit sessions took ${answered} ms, ${calm.ms} in peace`)
  return killed
    ? `ended: ${ran.summary.reason}`
    : `${made} children, then ${/^\d+ (\w+)/m.exec(ran.stdout)?.[1]}`
})

attack('R-02', 'ends a session that takes more memory than its profile says', async (as) => {
  const stage = new Stage(as)
  const probe = join(stage.project, 'tools/probe')
  await stage.uncontrolled([])
  const spec = { isolation: { ...LIMITS, memory: '256MiB' } }
  const modest = await stage.session([probe, 'status-quo'], { spec })
  assert.equal(
    modest.summary.outcome,
    'ended',
    `control: a small command ends by itself\n${describe(modest)}`,
  )
  const greedy = await stage.session([probe, 'allocate', '700'], { spec })
  assert.ok(greedy.ms < 20_000 * PATIENCE, `it took ${greedy.ms} ms`)
  assert.doesNotMatch(greedy.stdout, /^ok/m, 'it kept its memory')
  // A machine has no more than that: its own kernel says no, and nobody has to end anything.
  if (RUNTIME === 'microvm' && /^ENOMEM$/m.test(greedy.stdout)) return 'the machine has no more: ENOMEM'
  assert.equal(greedy.summary.outcome, 'killed', describe(greedy))
  assert.match(greedy.summary.reason ?? '', /memory/)
  assert.equal(greedy.code, 125)
  return `killed after ${Math.round(greedy.ms / 100) / 10} s: memory`
})

/** Fills both of the session's large mounts in memory, after moving what holds the one of them where that can be. */
const fillMemory = (each: string): string[] => [
  '/bin/sh',
  '-c',
  `mv /var /moved; for d in /tmp /var/tmp /moved/tmp; do head -c ${each} /dev/zero > $d/full; done
  ls -d /*; sleep 5; echo lasted`,
]

test('memory counts in each of the session’s own mounts, also when the agent moves what holds one', {
  skip: unavailable('user') ?? false,
}, async (t) => {
  const stage = new Stage('user')
  const spec = { isolation: { ...LIMITS, memory: '256MiB' } }
  const little = await stage.session(fillMemory('40M'), { spec })
  assert.match(little.stdout, /^lasted$/m, `control: what fits stays\n${describe(little)}`)
  const greedy = await stage.session(fillMemory('200M'), { spec })
  assert.doesNotMatch(greedy.stdout, /^lasted$/m, `it kept its memory\n${describe(greedy)}`)
  assert.match(greedy.summary.reason ?? '', /memory/)
  t.diagnostic(/^\/moved$/m.test(little.stdout) ? 'moved' : 'could not be moved')
})

attack('R-07', 'ends a command and its children at the time limit', async (as) => {
  const stage = new Stage(as)
  const mark = uniqueSleep()
  const up = (name: string): string => `echo > up-${name}`
  const command = `(setsid sh -c '${up('a')}; exec sleep ${mark}' &) ; sh -c '${up('b')}; sleep ${mark}' & trap '' TERM; ${up('c')}; sleep ${mark}`
  const inside = (): number => readdirSync(stage.project).filter((name) => name.startsWith('up-')).length
  let seen: readonly number[] = []
  const look = (): boolean => inside() === 3 && (seen = population(stage, mark)).length > 0
  const ran = await stage.session(['/bin/sh', '-c', command], {
    spec: { isolation: { ...LIMITS, wallclock: `${3 * PATIENCE}s` } },
    onStart: () => void eventually(look, 30_000 * PATIENCE),
  })
  assert.equal(inside(), 3, `control: three of its processes ran\n${describe(ran)}`)
  assert.ok(seen.length > 0, `control: they were seen while it ran\n${describe(ran)}`)
  assert.equal(ran.code, 125)
  assert.equal(ran.summary.outcome, 'timeout')
  assert.ok(ran.ms < 15_000 * PATIENCE, `it took ${ran.ms} ms`)
  assert.ok(
    await eventually(() => population(stage, mark).length === 0 && areGone(seen)),
    'children are left',
  )
  return `timeout after ${(ran.ms / 1000).toFixed(1)} s, no child left`
})

const ORPHANS = (mark: string): string =>
  `(setsid sleep ${mark} </dev/null >/dev/null 2>&1 &); (nohup sh -c 'sleep ${mark}' >/dev/null 2>&1 &); sleep ${mark} & sleep 0.3`

attack('C-46', 'leaves no process behind, however it ends', async (as) => {
  const stage = new Stage(as)
  const free = uniqueSleep()
  await stage.command(['/bin/sh', '-c', ORPHANS(free)])
  assert.ok(processesWith(free).length >= 3, 'control: without Ambit they outlive their parent')
  endProcesses(free)
  const ended = uniqueSleep()
  let seen: readonly number[] = []
  const look = (): boolean => (seen = population(stage, ended)).length > 0
  const ran = await stage.session(['/bin/sh', '-c', `${ORPHANS(ended)}; sleep 1`], {
    onStart: () => void eventually(look, 20_000 * PATIENCE),
  })
  assert.equal(ran.summary.outcome, 'ended', describe(ran))
  assert.ok(seen.length > 0, 'control: they are seen')
  const left = (): boolean => population(stage, ended).length > 0 || !areGone(seen)
  assert.ok(await eventually(() => !left()), 'processes outlive a normal end')
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) await endsAll(stage, signal)
  return 'gone after exit, SIGTERM and SIGKILL'
})

async function endsAll(stage: Stage, signal: NodeJS.Signals): Promise<void> {
  const mark = uniqueSleep()
  let pid = 0
  const all = join(stage.project, `all-of-${mark}`)
  const running = stage.session(['/bin/sh', '-c', `${ORPHANS(mark)}; echo > ${all}; sleep ${mark}`], {
    onStart: (child) => (pid = child),
  })
  assert.ok(await eventually(() => existsSync(all), 20_000 * PATIENCE), `${signal}: control: they run`)
  const seen = population(stage, mark)
  assert.ok(seen.length > 0, `${signal}: control: they are seen`)
  process.kill(pid, signal)
  const ran = await running
  assert.ok(
    await eventually(() => population(stage, mark).length === 0 && areGone(seen), 10_000),
    `${signal} leaves processes\n${describe(ran)}`,
  )
}

/** Fills the home in the ways that an agent would try: plainly, where nobody may look, and in a file without a name. */
const FILL: Readonly<Record<string, string>> = {
  plainly: 'dd if=/dev/zero of=big bs=1M count=400 status=none',
  'in a closed directory':
    'mkdir -p d/e && dd if=/dev/zero of=d/e/big bs=1M count=400 status=none; chmod 0 d/e d',
  'without a name': 'exec 9>gone; rm gone; dd if=/dev/zero bs=1M count=400 status=none >&9',
}

/** A machine's home goes through the view, whose quota says no before the disk is filled: the session goes on. */
async function refusesTheRest(as: As, isolation: object): Promise<string> {
  const stage = new Stage(as)
  const commands = Object.values(FILL).map((command) => `(cd && ${command}); rm -rf ~/big ~/d`)
  const ran = await stage.session(['/bin/sh', '-c', `${commands.join('\n')}\necho lasted`], {
    spec: { isolation },
  })
  assert.match(ran.stdout, /lasted/, describe(ran))
  assert.equal(ran.stderr.match(/quota exceeded/g)?.length, 3, describe(ran))
  const denied = (await stage.events()).filter((event) => event.ambit.kind === 'file.denied')
  assert.ok(denied.length > 0, 'on record')
  return 'quota of the view: refused and recorded, the session goes on'
}

/** Has the space of one file given back by each of its names. */
const CUT_BY_TWO_NAMES =
  'dd if=/dev/zero of=a bs=1M count=40 status=none; ln a b; exec 8>>a 9>>b; : > a; exec 8>&- 9>&-; rm a b'

attack('R-03', 'ends a session whose home takes more disk than its profile says', async (as) => {
  const isolation = { ...LIMITS, disk: '64MiB' }
  if (RUNTIME === 'microvm') return await refusesTheRest(as, isolation)
  const seen: string[] = []
  for (const [how, command] of Object.entries(FILL)) {
    const stage = new Stage(as)
    const fill = (amount: string): string[] => [
      '/bin/sh',
      '-c',
      `cd && ${command.replace('400', amount)}; sleep 8; echo lasted`,
    ]
    const greedy = await stage.session(fill('400'), { spec: { isolation } })
    assert.equal(greedy.summary.outcome, 'killed', `${how}: ${describe(greedy)}`)
    assert.match(greedy.summary.reason ?? '', /disk/)
    assert.doesNotMatch(greedy.stdout, /lasted/)
    seen.push(`${how}: ${Math.round(greedy.ms / 100) / 10} s`)
  }
  const stage = new Stage(as)
  const modest = await stage.session(['/bin/sh', '-c', 'cd && head -c 9000000 /dev/zero > some; sleep 1'], {
    spec: { isolation },
  })
  assert.equal(modest.summary.outcome, 'ended', `control: ${describe(modest)}`)
  const viewed = await stage.session(
    ['/bin/sh', '-c', 'dd if=/dev/zero of=big bs=1M count=400; ls -s --block-size=1 big'],
    { spec: { isolation } },
  )
  assert.match(viewed.stderr, /quota|No space/i, `the view refuses: ${describe(viewed)}`)
  const names = Array<string>(5).fill(CUT_BY_TWO_NAMES).join('\n')
  const again = await stage.session(
    ['/bin/sh', '-c', `${names}\ndd if=/dev/zero of=rest bs=1M count=200; ls -s --block-size=1 rest`],
    { spec: { isolation } },
  )
  assert.match(again.stderr, /quota|No space/i, `a file of two names counts once: ${describe(again)}`)
  const size = Number(/^(\d+) rest$/m.exec(again.stdout)?.[1])
  assert.ok(size > 30 << 20 && size <= 64 << 20, `control: the rest is there: ${size}\n${describe(again)}`)
  return `killed after ${seen.join(', ')}`
})

test('an agent gets no priority that its user may have (real time, nice)', {
  skip: unavailable('root') ?? false,
}, async (t) => {
  const stage = new Stage('root')
  const asked = ['/bin/sh', '-c', 'grep -E "realtime priority|nice priority" /proc/self/limits']
  const more = ['prlimit', '--rtprio=50:50', '--nice=30:30']
  const outside = await stage.command([...more, ...asked])
  if (outside.code !== 0) return t.skip('no CAP_SYS_RESOURCE: no user can be given a priority here')
  assert.match(outside.stdout, /realtime priority +50 +50/, 'control: its user has it')
  const inside = await stage.command([...more, stage.product.ambit, ...stage.run(asked, stage.profile())])
  assert.match(inside.stdout, /nice priority +0 +0 /, describe(inside))
  assert.match(inside.stdout, /realtime priority +0 +0 /)
})
