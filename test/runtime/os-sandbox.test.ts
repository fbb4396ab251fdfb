import assert from 'node:assert/strict'
import { chmodSync, closeSync, fstatSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { AmbitError } from '../../src/lib/errors.ts'
import { parseEvent } from '../../src/runtime/launch-channel.ts'
import { openWorld } from '../../src/runtime/os-sandbox.ts'

const dir = mkdtempSync(join(tmpdir(), 'ambit-world-'))
after(() => rmSync(dir, { recursive: true, force: true }))

/** A launcher of a few lines of Python: it speaks the protocol, or breaks it in one place. */
function launcher(name: string, body: string): string {
  const path = join(dir, name)
  writeFileSync(
    path,
    `#!/usr/bin/python3
import array, json, os, socket, sys, time
control = socket.socket(fileno=3)
lines = control.makefile('r')
def say(**event): control.sendall((json.dumps(event) + '\\n').encode())
def order(): return json.loads(lines.readline() or '{"op":"eof"}')['op']
def hand(names=("tcp", "dns", "dns-tcp", "proxy", "fuse"), count=5):
    fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(count)]
    packet = socket.socket(fileno=4)
    packet.sendmsg([json.dumps({"fds": names}).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))])
    say(ev='world')
READY = [{"control": "seccomp", "state": "fully", "detail": "ok"}]
${body}
`,
  )
  chmodSync(path, 0o755)
  return path
}

const code = (wanted: string, text: RegExp) => (error: unknown) =>
  error instanceof AmbitError && error.code === wanted && text.test(error.message)

test('a world from its descriptors to the exit of its command', async () => {
  const world = await openWorld(
    launcher(
      'good',
      `
hand()
assert order() == 'build'
say(ev='ready', controls=READY)
assert order() == 'exec'
say(ev='running', pid=7)
assert order() == 'freeze'
assert order() == 'thaw'
assert order() == 'signal'
say(ev='exit', code=3)`,
    ),
    '/spec',
  )
  const fds = [...Object.values(world.sockets), world.fuse]
  assert.equal(new Set(fds).size, 5)
  for (const fd of fds) assert.ok(fstatSync(fd).isCharacterDevice())
  assert.deepEqual(await world.build(), [{ control: 'seccomp', state: 'fully', detail: 'ok' }])
  await world.exec()
  world.freeze()
  world.thaw()
  world.signal(15)
  assert.deepEqual(await world.exited, { kind: 'code', code: 3 })
  for (const fd of fds) closeSync(fd)
})

for (const [name, event, exit] of [
  ['signal', "ev='exit', signal=9", { kind: 'signal', signal: 9 }],
  ['timeout', "ev='timeout'", { kind: 'timeout' }],
  ['over', "ev='over-limit', limit='memory'", { kind: 'over-limit', limit: 'memory' }],
] as const) {
  test(`an end by ${name}`, async () => {
    const world = await openWorld(launcher(name, `hand()\nsay(${event})`), '/spec')
    assert.deepEqual(await world.exited, exit)
  })
}

test('a launcher that fails to make namespaces is quoted', async () => {
  const path = launcher(
    'refused',
    "say(ev='failed', what='making a user namespace', why='EPERM', remedy='sysctl x')",
  )
  await assert.rejects(
    openWorld(path, '/spec'),
    code('ERR_RUNTIME_FAILED', /making a user namespace: EPERM; sysctl x/),
  )
})

test('a launcher that dies without a word is a failure', async () => {
  await assert.rejects(
    openWorld(launcher('mute', 'sys.exit(4)'), '/spec'),
    code('ERR_RUNTIME_FAILED', /status 4/),
  )
})

test('a launcher that dies while the cell is built is a failure', async () => {
  const world = await openWorld(launcher('half', 'hand()\norder()\nos.kill(os.getpid(), 11)'), '/spec')
  await assert.rejects(world.build(), code('ERR_RUNTIME_FAILED', /SIGSEGV/))
  assert.equal((await world.exited).kind, 'failed')
})

test('other descriptors than agreed are refused', async () => {
  await assert.rejects(
    openWorld(launcher('names', "hand(('tcp', 'dns', 'proxy', 'dns-tcp', 'fuse'))\norder()"), '/spec'),
    code('ERR_RUNTIME_FAILED', /not of this version/),
  )
  await assert.rejects(
    openWorld(launcher('fewer', 'hand(count=4)\norder()'), '/spec'),
    code('ERR_RUNTIME_FAILED', /not of this version/),
  )
})

for (const [name, line] of [
  ['garbage', "control.sendall(b'nonsense\\n')"],
  ['flood', "control.sendall(b'x' * 200000)"],
] as const) {
  test(`${name} on the control channel ends the session`, async () => {
    const world = await openWorld(launcher(name, `hand()\norder()\n${line}\norder()`), '/spec')
    await assert.rejects(world.build(), code('ERR_RUNTIME_FAILED', /no event/))
    assert.equal((await world.exited).kind, 'failed')
  })
}

test('a launcher that reports an end and lingers is killed', { timeout: 20_000 }, async () => {
  const started = Date.now()
  const world = await openWorld(
    launcher('lingers', "hand()\nsay(ev='exit', code=0)\ntime.sleep(60)"),
    '/spec',
  )
  assert.deepEqual(await world.exited, { kind: 'code', code: 0 })
  assert.ok(Date.now() - started < 15_000)
})

test('a missing launcher names the command that builds it', async () => {
  await assert.rejects(openWorld(join(dir, 'absent'), '/spec'), code('ERR_RUNTIME_MISSING', /dev build/))
})

test('events are taken only whole', () => {
  assert.deepEqual(parseEvent('{"ev":"running","pid":3}'), { ev: 'running', pid: 3 })
  assert.deepEqual(parseEvent('{"ev":"failed","what":"a","why":"b","remedy":null}'), {
    ev: 'failed',
    what: 'a',
    why: 'b',
    remedy: null,
  })
  for (const line of [
    '',
    'null',
    '[]',
    '{"ev":"running","pid":"3"}',
    '{"ev":"exit"}',
    '{"ev":"ready","controls":[{"control":"x","state":"maybe","detail":""}]}',
    '{"ev":"other"}',
  ]) {
    assert.equal(parseEvent(line), null, line)
  }
})
