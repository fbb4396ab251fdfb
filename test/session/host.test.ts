/** A warm start is as a cold one, serves only whoever is like it, and takes nothing from session to session. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, rmSync, statSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { commandOf, eventually, kill, processesWith } from '../support/processes.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

const isRoot = process.getuid?.() === 0

const socketOf = (stage: Stage): string => join(stage.ambitHome, 'run/session.sock')

/** The host that waits, by its socket; null when none does. */
function waiting(stage: Stage): number | null {
  return statSync(socketOf(stage), { throwIfNoEntry: false })?.ino ?? null
}

const hosts = (stage: Stage): readonly number[] =>
  processesWith(stage.root).filter((pid) => commandOf(pid).includes('session-host'))

async function warmStage(as: As): Promise<Stage> {
  const stage = new Stage(as, { files: { 'notes.txt': 'notes' } })
  const first = await stage.session(['true'])
  assert.equal(first.code, 0, describe(first))
  assert.ok(await eventually(() => waiting(stage) !== null, 20_000), 'no session host came up')
  return stage
}

/** Runs `start` and says whether the host that waited before took it. */
async function taken<T>(stage: Stage, start: () => Promise<T>): Promise<{ ran: T; warm: boolean }> {
  assert.ok(await eventually(() => waiting(stage) !== null, 20_000))
  const before = waiting(stage)
  const ran = await start()
  return { ran, warm: waiting(stage) !== before }
}

const LOOK = 'cat; echo to-stderr >&2; umask; pwd; echo "${EDITOR-unset} ${SECRET-unset}"; exit 7'
const PASS = { environment: { pass: ['EDITOR'] } }

for (const as of ['user', 'root'] as const) {
  const skip = unavailable(as) ?? false

  test(`${as}: a warm start gives what a cold one gives`, { skip }, async () => {
    const stage = await warmStage(as)
    const options = { input: 'from stdin\n', spec: PASS, env: { EDITOR: 'ed', SECRET: 'x' } }
    const warm = await taken(stage, () => stage.session(['sh', '-c', LOOK], options))
    assert.ok(warm.warm, 'it was a cold start')
    // A variable that Node reads when it starts makes it a cold one.
    const env = { ...options.env, NODE_NO_WARNINGS: '1' }
    const cold = await taken(stage, () => stage.session(['sh', '-c', LOOK], { ...options, env }))
    assert.ok(!cold.warm, 'it was a warm start')
    assert.equal(warm.ran.code, 7, describe(warm.ran))
    for (const part of ['code', 'signal', 'stdout', 'stderr'] as const)
      assert.equal(warm.ran[part], cold.ran[part], part)
    assert.match(warm.ran.stdout, /from stdin\n[\s\S]*ed unset/)
    assert.equal(warm.ran.summary.outcome, cold.ran.summary.outcome)
    stage.dispose()
  })

  test(`${as}: one session each, and nothing of it in the next`, { skip }, async () => {
    const stage = await warmStage(as)
    const env = { EDITOR: 'first-session' }
    const first = await taken(stage, () => stage.session(['sh', '-c', 'echo "$EDITOR"'], { spec: PASS, env }))
    assert.equal(first.ran.stdout, 'first-session\n', describe(first.ran))
    const second = await taken(stage, () =>
      stage.session(['sh', '-c', 'echo "${EDITOR-unset}"'], { spec: PASS }),
    )
    assert.ok(first.warm && second.warm)
    assert.equal(second.ran.stdout, 'unset\n')
    assert.ok(await eventually(() => hosts(stage).length <= 1), 'a host outlived its session')
    stage.dispose()
  })

  test(`${as}: refusals and usage errors read alike, warm or cold`, { skip }, async () => {
    const stage = await warmStage(as)
    for (const args of [
      ['run', '--yes', '--quiet', '--', 'no-such-command'],
      ['run', '--profile', 'none', '--yes', '--', 'true'],
      ['run', '--bogus', '--', 'true'],
      ['run', '--', 'true'],
    ]) {
      const { ran: warm, warm: was } = await taken(stage, () => stage.ambit(args))
      const cold = await stage.ambit(args, { env: { NODE_NO_WARNINGS: '1' } })
      assert.ok(was, args.join(' '))
      assert.deepEqual([warm.code, warm.stderr, warm.stdout], [cold.code, cold.stderr, cold.stdout])
    }
    stage.dispose()
  })

  test(`${as}: a signal reaches the agent, and the end of either half ends the session`, {
    skip,
  }, async () => {
    const stage = await warmStage(as)
    const up = join(stage.project, 'up')
    const whenUp = (act: () => void) => (): void => {
      rmSync(up, { force: true })
      void eventually(() => existsSync(up), 60_000).then(act)
    }
    const agent = (does: string): string[] => ['sh', '-c', `touch up; ${does}`]
    const trap = ['sh', '-c', 'trap "echo told; exit 9" TERM; touch up; while :; do sleep 0.05; done']
    const signalled = await taken(stage, () =>
      stage.session(trap, { onStart: (pid) => whenUp(() => process.kill(pid, 'SIGTERM'))() }),
    )
    assert.ok(signalled.warm)
    assert.deepEqual([signalled.ran.code, signalled.ran.stdout], [9, 'told\n'], describe(signalled.ran))

    const mark = `8${process.pid}`
    const gone = (): boolean => processesWith(`sleep\0${mark}`).length === 0
    const sleeper = agent(`exec sleep ${mark}`)
    const killed = await taken(stage, () =>
      stage.session(sleeper, { onStart: (pid) => whenUp(() => process.kill(pid, 'SIGKILL'))() }),
    )
    assert.ok(killed.warm)
    assert.equal(killed.ran.signal, 'SIGKILL')
    assert.ok(await eventually(gone, 20_000), 'the agent outlived ambit run')

    const orphaned = await taken(stage, () => {
      const [host] = hosts(stage)
      return stage.session(sleeper, { onStart: whenUp(() => host && process.kill(host, 'SIGKILL')) })
    })
    assert.ok(orphaned.warm)
    assert.equal(orphaned.ran.code, 125, describe(orphaned.ran))
    assert.match(orphaned.ran.stderr, /its host was killed/)
    assert.ok(await eventually(gone, 20_000), 'the agent outlived its host')
    const states = async (): Promise<string> => (await stage.ambit(['sessions', '--all', '--json'])).stdout
    assert.ok(await eventually(async () => ((await states()).match(/"killed"/g) ?? []).length === 2, 30_000))
    stage.dispose()
  })

  test(`${as}: whoever differs, or speaks nonsense, is not served; the host waits on`, { skip }, async () => {
    const stage = await warmStage(as)
    const differing = [
      // A lower hard limit is a right less.
      ['prlimit', '--nofile=5000:5000'],
      // So may be one who put itself under Landlock, which shows in nothing else.
      ['setpriv', '--no-new-privs'],
      ...(as === 'root' ? [['unshare', '--mount']] : []),
    ]
    for (const through of differing) {
      const argv = [...through, stage.product.ambit, 'run', '--yes', '--quiet', '--', 'true']
      const { ran, warm } = await taken(stage, () => stage.command(argv))
      assert.deepEqual([ran.code, warm], [0, false], `${through.join(' ')}: ${describe(ran)}`)
    }
    if (as === 'user' && isRoot) {
      // Root may connect to a user's socket, and is nobody that the user's host serves.
      const socket = connect(socketOf(stage))
      socket.on('error', () => undefined)
      socket.write('{"v":1}')
      await new Promise((resolve) => socket.once('close', resolve))
    }
    const served = await taken(stage, () => stage.session(['true']))
    assert.ok(served.warm)
    stage.dispose()
  })

  test(`${as}: a host that stands still holds nobody up, and runs nothing when it wakes`, {
    skip,
  }, async () => {
    const stage = await warmStage(as)
    const [host] = hosts(stage)
    assert.ok(host)
    process.kill(host, 'SIGSTOP')
    // More than its queue holds: connect(2) would wait for ever.
    const running = [1, 2, 3, 4].map(() => stage.ambit(['run', '--yes', '--quiet', '--', 'sleep', '3']))
    // They have given it up, and are there still, as cold starts.
    await new Promise((resolve) => setTimeout(resolve, 1500))
    process.kill(host, 'SIGCONT')
    for (const one of await Promise.all(running)) assert.equal(one.code, 0, describe(one))
    const { ran: last, warm } = await taken(stage, () => stage.session(['true']))
    assert.deepEqual([last.code, warm], [0, true], describe(last))
    const { stdout } = await stage.ambit(['sessions', '--all', '--json'])
    assert.deepEqual(
      [...stdout.matchAll(/"state":\s*"(\w+)"/g)].map(([, state]) => state),
      Array(6).fill('ended'),
    )
    stage.dispose()
  })

  test(`${as}: a killed host is not the last`, { skip }, async () => {
    const stage = await warmStage(as)
    const [host] = hosts(stage)
    assert.ok(host)
    process.kill(host, 'SIGKILL')
    assert.ok(await eventually(() => hosts(stage).some((pid) => pid !== host), 20_000), 'no other came')
    assert.ok(await eventually(() => waiting(stage) !== null, 20_000))
    stage.dispose()
  })

  test(`${as}: many at once, each of them whole`, { skip }, async () => {
    const stage = await warmStage(as)
    const quick = ['run', '--yes', '--quiet', '--', 'echo', 'here']
    const ran = await Promise.all(Array.from({ length: 17 }, () => stage.ambit(quick)))
    for (const one of ran) assert.deepEqual([one.code, one.stdout], [0, 'here\n'], describe(one))
    stage.dispose()
  })

  test(`${as}: the host that waits ends with ambitd`, { skip }, async () => {
    const stage = await warmStage(as)
    assert.equal(hosts(stage).length, 1)
    for (const pid of processesWith(stage.root)) if (commandOf(pid).includes('ambitd.cjs')) kill(pid)
    assert.ok(await eventually(() => hosts(stage).length === 0))
    // Its socket is left, and nobody's: the next start is a cold one.
    const next = await stage.session(['true'])
    assert.equal(next.code, 0, describe(next))
    assert.deepEqual(readdirSync(join(stage.ambitHome, 'run/sessions')), [])
    stage.dispose()
  })
}
