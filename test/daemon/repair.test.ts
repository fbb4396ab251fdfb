import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { birthOf } from '../../src/daemon/records.ts'
import { orphanProcesses } from '../../src/daemon/orphans.ts'
import { leftoverMounts, repair } from '../../src/daemon/repair.ts'
import { daemonSocket, sessionDir } from '../../src/lib/paths.ts'
import { Stage, startRun } from './stage.ts'

const DEAD = 's0abcdefg-dead00'
const LIVE = 's0abcdefg-live00'

/** A process that looks like a part of session `id`. */
function part(t: TestContext, stage: Stage, name: string, id: string): ChildProcess {
  const dir = name === 'ambit-view' ? sessionDir(stage.paths, id) : join(stage.paths.run, 'sessions', id)
  fs.mkdirSync(dir, { recursive: true })
  const script = 'setTimeout(() => {}, 300000)'
  const real = spawn(process.execPath, ['-e', script, 'serve', join(dir, 'spec.json')], {
    argv0: `/opt/${name}`,
    stdio: 'ignore',
  })
  t.after(() => real.kill('SIGKILL'))
  return real
}

const gone = async (children: readonly ChildProcess[]): Promise<void> => {
  for (const child of children) {
    if (child.signalCode === null) await once(child, 'exit')
    assert.equal(child.signalCode, 'SIGKILL')
  }
}

const lives = (child: ChildProcess): boolean => child.pid !== undefined && birthOf(child.pid) !== null

test('the daemon clears what a dead session left and nothing of a live one', async (t) => {
  const stage = new Stage(t)
  stage.session(DEAD)
  stage.session(LIVE)
  const live = await stage.connect()
  await live.call('session.open', stage.openArgs(LIVE))
  const run = await startRun(stage, DEAD)
  const parts = [part(t, stage, 'ambit-launch', DEAD), part(t, stage, 'ambit-view', DEAD)]
  const own = [part(t, stage, 'ambit-launch', LIVE), part(t, stage, 'ambit-view', LIVE)]
  const innocent = part(t, stage, 'innocent', DEAD)
  assert.deepEqual(orphanProcesses(stage.paths), [], 'nothing is an orphan while ambit run lives')
  run.kill('SIGKILL')
  await stage.state(DEAD, 'killed')
  await gone(parts)
  assert.ok([...own, innocent].every(lives))
  assert.ok(!fs.existsSync(join(stage.paths.run, 'sessions', DEAD)))
  assert.ok(fs.existsSync(join(stage.paths.run, 'sessions', LIVE)))
  assert.deepEqual(await repair(stage.paths), [], 'nothing is left to repair')
  assert.ok(own.every(lives) && fs.existsSync(daemonSocket(stage.paths)))
  assert.equal((await live.call('sessions', { all: false })).sessions[0]?.id, LIVE)
})

test('after a crash of daemon and session, repair clears processes, directories and socket, and records the end', async (t) => {
  const stage = new Stage(t)
  const journal = stage.session(DEAD)
  const run = await startRun(stage, DEAD)
  const parts = [part(t, stage, 'ambit-launch', DEAD), part(t, stage, 'ambit-view', DEAD)]
  const innocent = part(t, stage, 'innocent', DEAD)
  const pid = await stage.daemonPid()
  process.kill(pid!, 'SIGKILL')
  run.kill('SIGKILL')
  await once(run, 'exit')
  const done = await repair(stage.paths)
  await gone(parts)
  assert.ok(lives(innocent) && fs.existsSync(journal.path))
  const killed = parts.map(
    (child, i) => `killed ambit-${i ? 'view' : 'launch'} ${child.pid} of session ${DEAD}`,
  )
  assert.deepEqual(done.slice(0, 2).sort(), killed.sort())
  assert.deepEqual(done.slice(2), [
    `removed the run directory of session ${DEAD}`,
    `removed the stale socket ${daemonSocket(stage.paths)}`,
    `recorded the end of session ${DEAD}: killed`,
  ])
  assert.ok(fs.existsSync(join(sessionDir(stage.paths, DEAD), 'sealed.json')))
  assert.deepEqual(await repair(stage.paths), [], 'a second time there is nothing to do')
})

test('knows its own mounts among others', () => {
  const own = process.getuid?.()
  const line = (path: string, type: string, source: string, uid = own) =>
    `36 35 0:50 / ${path} rw,nosuid - ${type} ${source} rw,user_id=${uid},group_id=0`
  const info = [
    line('/home/a\\040b', 'fuse', 'ambit'),
    line('/sub', 'fuse.ambit', 'ambit'),
    line('/other', 'fuse', 'sshfs'),
    line('/foreign', 'fuse', 'ambit', 4242),
    '22 1 8:1 / / rw - ext4 ambit rw',
    '',
  ].join('\n')
  assert.deepEqual(leftoverMounts(info), ['/home/a b', '/sub'])
})
