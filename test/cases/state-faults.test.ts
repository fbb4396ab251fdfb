/** Faults of the place where Ambit keeps its state: no session starts, one line says why and what to do, then all is well. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  globSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { labMissing } from '../support/lab.ts'
import { endProcesses, eventually, processesWith } from '../support/processes.ts'
import { describe, type Ran, Stage } from '../support/stage.ts'
import { runs } from '../support/runs.ts'
import { unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())
const user = { skip: unavailable('user') ?? false }
const lab = { skip: labMissing ?? false }

/** One line of Ambit's, with a reason and a remedy, and nothing was run. */
function refused(ran: Ran, line: RegExp): void {
  assert.equal(ran.code, 125, describe(ran))
  assert.equal(ran.stdout, '', describe(ran))
  assert.match(ran.stderr, line)
  assert.equal(ran.stderr.trim().split('\n').length, 1, ran.stderr)
  assert.match(ran.stderr, /; .*\[ERR_(?!INTERNAL)[A-Z_]+\]/, ran.stderr)
}

const stateOf = (stage: Stage): string => join(stage.ambitHome, 'state')

/** Cold first, with nothing there; then warm, where a daemon and a session host stand ready. */
async function coldAndWarm(stage: Stage, fault: () => void, mend: () => void, line: RegExp): Promise<void> {
  for (const warm of [false, true]) {
    if (warm) await runs(stage)
    fault()
    try {
      refused(await stage.session(['/bin/echo', 'it-ran']), line)
    } finally {
      mend()
    }
    await runs(stage)
  }
}

test('a state directory that cannot be written to', user, async () => {
  const stage = new Stage('user')
  mkdirSync(stateOf(stage), { mode: 0o700 })
  stage.own()
  spawnSync('chown', ['--reference', stage.ambitHome, stateOf(stage)])
  const mode = (bits: number) => (): void => chmodSync(stateOf(stage), bits)
  await coldAndWarm(stage, mode(0o500), mode(0o700), /will not keep state in .*EACCES/)
  await coldAndWarm(stage, mode(0o722), mode(0o700), /other accounts may write to it/)
})

test('a state directory that is a link', user, async () => {
  const stage = new Stage('user')
  mkdirSync(join(stage.ambitHome, 'real'), { mode: 0o700 })
  const real = join(stage.ambitHome, 'real')
  symlinkSync(real, stateOf(stage))
  spawnSync('chown', ['-h', '--reference', stage.ambitHome, real, stateOf(stage)])
  refused(await stage.session(['/bin/echo', 'it-ran']), /it is a link/)
  rmSync(stateOf(stage))
  await runs(stage)
  renameSync(stateOf(stage), `${stateOf(stage)}-moved`)
  symlinkSync(`${stateOf(stage)}-moved`, stateOf(stage))
  refused(await stage.session(['/bin/echo', 'it-ran']), /it is a link/)
})

test("root does not keep its state in another account's directory", {
  skip: unavailable('root') ?? false,
}, async () => {
  const stage = new Stage('root')
  mkdirSync(stateOf(stage), { mode: 0o700 })
  const owner = (uid: string) => (): void => void spawnSync('chown', [uid, stateOf(stage)])
  await coldAndWarm(stage, owner('12345'), owner('0'), /it belongs to another account/)
})

test(
  'a log that cannot be written: warm and cold no session begins, and one that runs ends in words',
  user,
  async () => {
    const stage = new Stage('user')
    await runs(stage)
    const mode = (path: string, bits: number) => (): void => chmodSync(join(stateOf(stage), path), bits)
    await coldAndWarm(
      stage,
      mode('log', 0o500),
      mode('log', 0o700),
      /could not write the log: EACCES.*let its directory/,
    )
    for (const path of ['log', 'log/tile/0/000.p']) {
      const running = stage.session(['/bin/sh', '-c', 'echo it-ran; exec sleep 2.125'])
      assert.ok(await eventually(() => processesWith('sleep\x002.125').length > 0, 30_000), 'it runs')
      mode(path, 0o500)()
      try {
        const ran = await running
        assert.equal(ran.code, 125, `${path}: ${describe(ran)}`)
        assert.match(
          ran.stderr,
          /^ambit: session \S+ failed: could not write the log: EACCES.*; let its directory .*\n$/,
        )
        assert.equal(ran.summary.outcome, 'failed')
        assert.equal(ran.summary.log, null)
      } finally {
        mode(path, 0o700)()
      }
    }
    // Nothing is lost: the journals held it, and the next command brings it into the log.
    await runs(stage)
    const ends = (await stage.events()).filter((event) => event.ambit.kind === 'session.end')
    // Five that ran, two refused, two that ended in words.
    assert.equal(ends.length, 9)
    assert.equal((await stage.ambit(['log', 'verify'])).code, 0)
  },
)

test('a configuration that cannot be read', user, async () => {
  const stage = new Stage('user')
  const config = join(stage.ambitHome, 'config')
  mkdirSync(config)
  spawnSync('chown', ['--reference', stage.ambitHome, config])
  const mode = (bits: number) => (): void => chmodSync(config, bits)
  await coldAndWarm(stage, mode(0), mode(0o700), /config\/policies: EACCES.*; /)
})

test('a full /dev/shm, and a full /tmp', lab, async () => {
  const stage = new Stage('user')
  await runs(stage)
  for (const place of ['/dev/shm', '/tmp']) {
    const mounted = spawnSync('mount', [
      '-t',
      'tmpfs',
      '-o',
      'size=64k,nr_inodes=3,mode=1777',
      'tmpfs',
      place,
    ])
    assert.equal(mounted.status, 0, String(mounted.stderr))
    try {
      for (const name of ['one', 'two']) spawnSync('dd', ['if=/dev/zero', `of=${place}/${name}`, 'bs=4k'])
      const ran = await stage.session(['/bin/echo', 'it-ran'])
      // What needs no room there goes on; /etc lies on the disk where memory has none.
      if (ran.code !== 0) refused(ran, /ENOSPC.*free some space/)
      else assert.equal(ran.stdout, 'it-ran\n')
      if (place === '/dev/shm') assert.equal(ran.code, 0, 'the disk stands in')
    } finally {
      spawnSync('umount', ['-l', place])
    }
    await runs(stage)
  }
})

test('stale sockets, and a session whose process number is another process by now', user, async () => {
  const stage = new Stage('user')
  const running = stage.session(['/bin/sleep', '60'])
  const registration = (): string | undefined =>
    globSync('state/sessions/*/registration.json', { cwd: stage.ambitHome })[0]
  assert.ok(
    await eventually(() => registration() !== undefined && processesWith(stage.root).length > 4, 30_000),
  )
  endProcesses(stage.root)
  await running
  // Sockets of the dead lie there; the session's pid now names this test, which must live.
  const file = join(stage.ambitHome, registration() ?? 'none')
  const record = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>
  writeFileSync(file, JSON.stringify({ ...record, pid: process.pid }))
  await runs(stage)
  const listed = await stage.ambit(['sessions', '--all', '--json'])
  const found = (JSON.parse(listed.stdout) as { id: string; state: string }[]).find(
    ({ id }) => id === record.id,
  )
  assert.equal(found?.state, 'killed', describe(listed))
})
