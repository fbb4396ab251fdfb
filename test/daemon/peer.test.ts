import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { daemonSocket } from '../../src/lib/paths.ts'
import { Stage } from './stage.ts'

const root = process.getuid?.() === 0

/** Says hello from a process that `wrap` starts; prints what it gets: an answer, or the end of the link. */
function helloFrom(stage: Stage, wrap: readonly string[]): string {
  const frames = import.meta.resolve('../../src/daemon/frames.ts')
  const script = `
    import { connect } from 'node:net'
    import { FrameReader, encodeFrame } from '${frames}'
    const socket = connect('${daemonSocket(stage.paths)}')
    const reader = new FrameReader()
    socket.on('error', () => undefined)
    socket.on('connect', () => socket.write(encodeFrame({ id: 1, op: 'hello', args: { v: 1, version: 'x' } })))
    socket.on('data', (chunk) => { console.log('answer', JSON.stringify(reader.push(chunk)[0])); process.exit() })
    socket.on('close', () => { console.log('closed'); process.exit() })`
  const command = [...wrap, process.execPath, '--input-type=module', '-e', script]
  const { stdout, stderr } = spawnSync('env', command, { encoding: 'utf8', timeout: 20_000 })
  return stdout.trim() || stderr
}

test('answers a process of its own account and namespaces, and none in a foreign user namespace', async (t) => {
  const stage = new Stage(t)
  const { daemon } = await stage.connect()
  assert.match(helloFrom(stage, []), new RegExp(`^answer .*"pid":${daemon.pid}`))
  assert.equal(helloFrom(stage, ['unshare', '--user']), 'closed')
  assert.equal(helloFrom(stage, ['unshare', '--user', '--map-root-user']), 'closed')
  assert.equal(helloFrom(stage, ['unshare', '--user', '--map-current-user']), 'closed')
})

test('refuses a process in a foreign pid namespace', {
  skip: root ? false : 'only root makes one without a user namespace',
}, async (t) => {
  const stage = new Stage(t)
  await stage.connect()
  assert.match(helloFrom(stage, ['unshare', '--ipc']), /^answer/)
  assert.equal(helloFrom(stage, ['unshare', '--pid', '--fork']), 'closed')
})

test('refuses another account, even where it reaches the socket', {
  skip: root ? false : 'only root can be another account',
}, async (t) => {
  const stage = new Stage(t)
  await stage.connect()
  // The directory's 0700 keeps others out; CAP_DAC_OVERRIDE walks through it, so the check of the peer decides.
  const other = [
    'setpriv',
    '--reuid',
    '12345',
    '--regid',
    '12345',
    '--clear-groups',
    '--inh-caps',
    '+dac_override',
    '--ambient-caps',
    '+dac_override',
  ]
  assert.equal(helloFrom(stage, other), 'closed')
  assert.match(
    helloFrom(stage, ['setpriv', '--inh-caps', '+dac_override', '--ambient-caps', '+dac_override']),
    /^answer/,
  )
})

test('the client refuses a socket directory through which it would be led elsewhere', async (t) => {
  const stage = new Stage(t)
  const { connectDaemon } = await import('../../src/daemon/client.ts')
  await stage.connect()
  const linked = { ...stage.paths, run: join(stage.paths.state, 'link') }
  const { symlinkSync } = await import('node:fs')
  symlinkSync(stage.paths.run, linked.run)
  await assert.rejects(connectDaemon(linked), { code: 'ERR_DAEMON_PEER' })
})
