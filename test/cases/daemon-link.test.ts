/** T-11 and T-12: the daemon's socket, attacked from outside a session by whoever can name it. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { lstatSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { attack } from '../support/case.ts'
import { commandOf, daemonsOf, eventually } from '../support/processes.ts'
import { describe, type Ran, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

/** Sends each of these to the socket, on a link of its own, and says how the link ended and what was answered. */
const TALK = `const net = require('net'), [path, list] = process.argv.slice(1)
const frame = (text) => { const body = Buffer.from(text, 'latin1'), size = Buffer.alloc(4); size.writeUInt32LE(body.length); return Buffer.concat([size, body]) }
const hello = frame(JSON.stringify({ id: 1, op: 'hello', args: { v: 1, version: process.env.AMBIT_VERSION } }))
const say = (bytes) => new Promise((done) => {
  const socket = net.connect(path), got = []
  const end = (how) => { clearTimeout(timer); socket.destroy(); done({ how, got: Buffer.concat(got).toString('latin1') }) }
  const timer = setTimeout(() => end('open'), 1200)
  socket.on('connect', () => socket.write(bytes)); socket.on('data', (data) => got.push(data))
  socket.on('close', () => end('closed')); socket.on('error', (error) => end(error.code))
})
Promise.all(JSON.parse(list).map(([name, kind, text]) => {
  const bytes = kind === 'raw' ? Buffer.from(text, 'latin1') : frame(text)
  return say(kind === 'after' ? Buffer.concat([hello, bytes]) : bytes).then((result) => [name, result])
})).then((all) => process.stdout.write(JSON.stringify(Object.fromEntries(all))))`

type Said = Record<string, { how: string; got: string }>

/** `outside`: started by this test process, not as the stage's user. */
async function talk(
  stage: Stage,
  list: readonly (readonly [string, string, string])[],
  outside: readonly string[] = [],
): Promise<Said> {
  const socket = join(stage.ambitHome, 'run', 'ambitd.sock')
  const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')) as {
    version: string
  }
  const env = { AMBIT_VERSION: version }
  const argv = [stage.product.node, '-e', TALK, socket, JSON.stringify(list)]
  const [program = '', ...rest] = [...outside, ...argv]
  const { code, ...ran } =
    outside.length === 0
      ? await stage.command(argv, { env })
      : { ...spawnSync(program, rest, { encoding: 'utf8', env: { ...process.env, ...env } }), code: 0 }
  assert.equal(code, 0, `${ran.stdout}${ran.stderr}`)
  return JSON.parse(ran.stdout) as Said
}

const hello = (more = ''): string => `{"id":1,"op":"hello","args":{"v":1,"version":"x"}${more}}`
const MALFORMED: readonly (readonly [string, string, string])[] = [
  ['no length', 'raw', '\0\0\0\0'],
  ['1 MiB and one', 'raw', '\x01\0\x10\0{'],
  ['length of 4 GiB', 'raw', '\xff\xff\xff\xff{'],
  ['not JSON', 'frame', '{"id":1,'],
  ['duplicate key', 'frame', '{"id":1,"id":1,"op":"hello","args":{"v":1,"version":"x"}}'],
  ['null', 'frame', 'null'],
  ['a list', 'frame', '[1]'],
  ['unknown field', 'frame', hello(',"sudo":true')],
  ['white space', 'frame', ` ${hello()}`],
  ['lone surrogate', 'frame', hello().replace('"x"', '"\\ud800"')],
  ['not UTF-8', 'frame', hello().replace('"x"', '"\xff"')],
  ['control character', 'frame', hello().replace('"x"', '"\x01"')],
  ['prototype', 'frame', '{"id":1,"op":"__proto__","args":{}}'],
  ['unknown operation', 'after', '{"id":2,"op":"open_everything","args":{}}'],
  ['answer that nobody waits for', 'after', '{"re":99,"value":{}}'],
  ['argument of another type', 'after', '{"id":2,"op":"kill","args":{"id":{"$ne":null}}}'],
]

attack('T-12', 'ends a link at the first malformed frame, and serves on', async (as) => {
  const stage = new Stage(as)
  const started = await stage.session(['/bin/true'])
  assert.equal(started.code, 0, describe(started))
  const said = await talk(stage, [...MALFORMED, ['control', 'after', '{"id":2,"op":"status","args":{}}']])
  for (const [name] of MALFORMED)
    assert.equal(said[name]?.how, 'closed', `${name}: ${JSON.stringify(said[name])}`)
  assert.equal(said.control?.how, 'open', `control: a proper link stays: ${JSON.stringify(said.control)}`)
  const again = await stage.session(['/bin/true'])
  assert.equal(again.code, 0, `control: the daemon lives\n${describe(again)}`)
  return `${MALFORMED.length} frames, each the end of its link`
})

attack('T-11', 'has one daemon, and takes no socket that is not its own', async (as) => {
  const stage = new Stage(as)
  const run = join(stage.ambitHome, 'run')
  const socket = join(run, 'ambitd.sock')
  const both = await Promise.all(['one', 'two', 'three'].map((mark) => stage.session(['/bin/echo', mark])))
  for (const ran of both) assert.equal(ran.code, 0, `control: ${describe(ran)}`)
  assert.equal(daemonsOf(stage).length, 1, daemonsOf(stage).map(commandOf).join('; '))
  assert.equal(lstatSync(run).mode & 0o777, 0o700, 'the directory is private')
  const foreign = foreignAccount()
  if (foreign.length > 0) {
    const said = await talk(stage, [['foreign', 'frame', hello()]], foreign)
    assert.notEqual(said.foreign?.how, 'open', 'another account was answered')
    assert.equal(said.foreign?.got, '')
  }
  // By the account itself: what is another's is refused for that alone.
  const after = async (cmd: string): Promise<Ran> => {
    const made = await stage.command(['/bin/sh', '-ec', cmd], { cwd: stage.ambitHome })
    assert.equal(made.code, 0, describe(made))
    return await stage.session(['/bin/echo', 'it-ran'])
  }
  const linked = await after('rm -r run; mkdir -m 700 other; ln -s other run')
  const open = await after('rm run; mkdir run; chmod 777 run')
  assert.deepEqual([linked.code, open.code], [125, 125], 'a link, a directory open to others')
  // The first one holds the log until it sees that its directory is gone.
  assert.ok(await eventually(() => daemonsOf(stage).length === 0))
  const file = await after('rm -r run; mkdir -m 700 run; echo stale > run/ambitd.sock')
  assert.equal(file.code, 0, `a file in its place\n${describe(file)}`)
  for (const pid of daemonsOf(stage)) process.kill(pid, 'SIGKILL')
  assert.ok(await eventually(() => daemonsOf(stage).length === 0))
  assert.ok(lstatSync(socket).isSocket(), 'control: nobody removes the socket of a killed daemon')
  const stale = await after('true')
  assert.equal(stale.code, 0, `a stale socket\n${describe(stale)}`)
  assert.equal(daemonsOf(stage).length, 1, 'control: another daemon took its place')
  return 'linked or open directory 125; stale socket replaced'
})

/** As root, somebody else who can walk into the directory all the same. */
function foreignAccount(): string[] {
  if (unavailable('root') !== null) return []
  const caps = ['--inh-caps', '+dac_override', '--ambient-caps', '+dac_override']
  return ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups', ...caps]
}
