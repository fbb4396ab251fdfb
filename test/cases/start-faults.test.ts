/** Starts under odd circumstances: a full disk, another's home, an installation replaced, a stop in the middle, a signal. */
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { readFileSync, renameSync, rmSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { labMissing } from '../support/lab.ts'
import { commandOf, endProcesses, eventually, processesWith } from '../support/processes.ts'
import { describe, type Ran, Stage } from '../support/stage.ts'
import { runs } from '../support/runs.ts'
import { account, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())
const user = { skip: unavailable('user') ?? false }
const lab = { skip: labMissing ?? false }

/** Waits for the host of a warm start. */
const warm = async (stage: Stage): Promise<void> => {
  await runs(stage)
  assert.ok(await eventually(() => hosts(stage).length > 0, 20_000), 'a host stands ready')
}
const hosts = (stage: Stage): readonly number[] =>
  processesWith(stage.ambitHome).filter((pid) => commandOf(pid).includes('session-host'))

const quick = (stage: Stage): string[] => [
  'run',
  '--profile',
  stage.profile(),
  '--project',
  stage.project,
  '--yes',
  '--quiet',
  '--',
  '/bin/echo',
  'it-ran',
]

/** One line with a reason and a remedy. */
function refused(ran: Ran, line: RegExp): void {
  assert.equal(ran.code, 125, describe(ran))
  assert.equal(ran.stdout, '', describe(ran))
  assert.match(ran.stderr, line)
  assert.match(ran.stderr, /^ambit: [^\n]*; [^\n]*\[ERR_(?!INTERNAL)[A-Z_]+\]\n$/)
}

test('a state disk that is full when everything else is warm', lab, async () => {
  const stage = new Stage('user')
  const { uid, gid } = account('user')
  const options = `size=48m,uid=${uid},gid=${gid},mode=700`
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', stage.ambitHome])
  try {
    await warm(stage)
    const filler = join(stage.ambitHome, 'filler')
    spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4096'], { stdio: 'ignore' })
    refused(await stage.ambit(quick(stage)), /ENOSPC.*free some space/)
    rmSync(filler)
    await runs(stage)
  } finally {
    endProcesses(stage.ambitHome)
    await sleep(200)
    spawnSync('umount', ['-l', stage.ambitHome])
  }
})

test("another account's home, a session of its own, no terminal", user, async () => {
  const stage = new Stage('user')
  // As `su` and `sudo -E` leave it. A place of its own instead, and it starts.
  const bare = { AMBIT_HOME: '', XDG_RUNTIME_DIR: '', XDG_STATE_HOME: '' }
  if (process.getuid?.() === 0)
    refused(await stage.ambit(quick(stage), { env: { ...bare, HOME: '/root' } }), /will not keep|EACCES/)
  for (const start of [['setsid', '--wait'], ['nohup'], ['env', '--ignore-signal=HUP']]) {
    const ran = await stage.command([...start, stage.product.ambit, ...quick(stage)])
    assert.equal(ran.code, 0, `${start.join(' ')}: ${describe(ran)}`)
    assert.equal(ran.stdout, 'it-ran\n')
  }
})

test('an installation that is replaced while a session runs', user, async () => {
  const stage = new Stage('user')
  const place = join(stage.root, 'install')
  // Links: a copy in all but the bytes.
  const install = (): void => {
    execFileSync('cp', ['-al', join(stage.product.root, 'ambit'), place])
    const bundle = join(place, '.build/ambit-main.cjs')
    const bytes = readFileSync(bundle)
    rmSync(bundle)
    execFileSync('tee', [bundle], { input: bytes, stdio: ['pipe', 'ignore', 'inherit'] })
    utimesSync(bundle, new Date(), new Date())
  }
  install()
  const run = (command: readonly string[]): Promise<Ran> =>
    stage.command([join(place, 'ambit'), ...quick(stage).slice(0, -2), ...command])
  for (const first of ['cold', 'warm']) {
    if (first === 'warm') assert.ok(await eventually(() => hosts(stage).length > 0, 20_000))
    const running = run(['/bin/sh', '-c', 'echo it-ran; exec sleep 3.125'])
    assert.ok(await eventually(() => processesWith('sleep\x003.125').length > 0, 30_000), `${first}: it runs`)
    renameSync(place, `${place}-before-${first}`)
    install()
    const ran = await running
    assert.equal(ran.code, 0, `${first}: ${describe(ran)}`)
    assert.equal(ran.stderr, '', first)
    const next = await run(['/bin/echo', 'it-ran'])
    assert.equal(next.stdout, 'it-ran\n', `${first}, the next: ${describe(next)}`)
  }
})

test('stopped and continued while it starts, it starts', user, async () => {
  const stage = new Stage('user')
  await warm(stage)
  let stopped = 0
  for (const ms of [0, 10, 20, 45, 90]) {
    let leader = 0
    const command = ['setsid', stage.product.ambit, ...quick(stage)]
    const running = stage.command(command, { onStart: (pid) => (leader = pid) })
    // What Ctrl-Z does to a foreground job: every process of its group stops at once.
    for (let n = 0; n < 5000 && !leads(leader); n++) await sleep(1)
    await sleep(ms)
    if (signalled(leader, 'SIGSTOP')) {
      await sleep(1500)
      // One that had ended by then is gone now.
      if (signalled(leader, 'SIGCONT')) stopped++
    }
    const ran = await running
    assert.equal(ran.code, 0, `after ${ms} ms: ${describe(ran)}`)
    assert.equal(ran.stdout, 'it-ran\n', `after ${ms} ms`)
    assert.equal(ran.stderr, '', `after ${ms} ms`)
  }
  assert.ok(stopped >= 2, `${stopped} of them were still starting when they were stopped`)
})

/** Whether `pid` leads a process group by now. */
const leads = (pid: number): boolean => signalled(pid, 0)

/** False when nothing is left of the group: a start may be over before it could be stopped. */
function signalled(leader: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-leader, signal)
  } catch {
    return false
  }
}

/** Node's debugger listens on port 9229 (0x240d). The network is this file's own. */
const debugged = (): boolean => / 0100007F:240D 00000000:0000 0A /.test(readFileSync('/proc/net/tcp', 'utf8'))

test('SIGUSR1 opens no debugger', lab, async () => {
  const stage = new Stage('user')
  const plain = spawn(stage.product.node, ['-e', 'setTimeout(() => 0, 20000)'], { stdio: 'ignore' })
  await sleep(1000)
  plain.kill('SIGUSR1')
  assert.ok(await eventually(debugged), 'control: an ordinary Node listens')
  plain.kill('SIGKILL')
  assert.ok(await eventually(() => !debugged()))
  for (const first of ['cold', 'warm']) {
    if (first === 'warm') await warm(stage)
    const running = stage.session(['/bin/sh', '-c', 'echo it-ran; exec sleep 3.125'])
    assert.ok(await eventually(() => processesWith('sleep\x003.125').length > 0, 30_000), 'it runs')
    const nodes = processesWith(stage.ambitHome).filter((pid) => commandOf(pid).includes('.build/node'))
    assert.ok(nodes.length >= 2, `${first}: ${nodes.map(commandOf).join('; ')}`)
    for (const pid of nodes) process.kill(pid, 'SIGUSR1')
    await sleep(700)
    assert.ok(!debugged(), `${first}: a debugger listens`)
    const ran = await running
    assert.equal(ran.code, 0, describe(ran))
  }
})
