/**
 * The launcher against a guest that lies and against a QEMU that was taken over: a program of ours stands in QEMU's
 * place, in QEMU's own cell, and says what no honest guest says.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { fileIdentity } from '../../src/runtime/microvm-image/digests.ts'
import { withoutPrograms } from '../support/programs.ts'
import { drive, isRoot, last, ordinary, type Result, type Scenario } from './world.ts'

const missing =
  process.arch !== 'x64'
    ? 'the microvm machine is x86-64 only'
    : (((!existsSync('/dev/net/tun') && 'no /dev/net/tun') || withoutPrograms('swtpm')) ?? false)
const options = { skip: missing }
const source = join(import.meta.dirname, '../support/probe/false-machine.c')
const UP = ['say {"ev":"hello","v":1}', 'hear', 'ready', 'hear', 'say {"ev":"running","pid":1}']
const LAUNCH = `{"ev":"launch","n":1,"fact":${JSON.stringify({
  k: 'process.launch', pid: 5, ppid: 1, path: '/usr/bin/id', digest: 'x', argv: ['id'], cwd: '/', truncated: false,
})}}` // biome-ignore format: one line
const STAY = 'stay'
let dir = ''
let parts = 0

const program = (name: string): string => join(dir, name)

before(() => {
  if (missing) return
  dir = mkdtempSync(join(tmpdir(), 'ambit-false-'))
  chmodSync(dir, 0o755)
  const compile = (name: string, ...more: string[]): void => {
    execFileSync('cc', [
      '-O1',
      '-static',
      '-D_GNU_SOURCE',
      '-Wall',
      '-Werror',
      ...more,
      '-o',
      program(name),
      source,
    ])
  }
  compile('false-machine')
  compile('outside', `-DPART="${program('part-outside')}"`)
})
after(() => dir && rmSync(dir, { recursive: true, force: true }))

const digest = '0'.repeat(64)
const verified = (path: string) => ({ sha256: digest, identity: fileIdentity(path) })

/** A session whose machine plays these lines. */
function play(
  lines: readonly string[],
  more: Partial<Scenario> = {},
  meddle: (initramfs: string) => void = () => undefined,
  snapshot: object | null = null,
): Result {
  const part = program(`part-${++parts}`)
  writeFileSync(part, `${lines.join('\n')}\n`)
  const file = (name: string): string => {
    const path = program(name)
    writeFileSync(path, name)
    return path
  }
  const [initramfs, root] = [file('initramfs'), file('root')]
  const scenario: Scenario = {
    argv: ['true'],
    ...ordinary,
    ...more,
    spec: {
      mounts: [{ kind: 'tmpfs', target: '/tmp', size: 1 << 20, mode: 0o1777 }],
      cell: {
        kind: 'vm',
        qemu: program('false-machine'),
        accelerator: 'tcg',
        processors: 1,
        snapshot,
        kernel: part,
        initramfs,
        root,
        commandLine: 'quiet',
        memory: 256 << 20,
        programs: { '/usr/bin/id': 'digest of the image' },
        measured: {
          swtpm: '/usr/bin/swtpm',
          image: digest,
          profile: digest,
          kernel: verified(part),
          initramfs: verified(initramfs),
          root: verified(root),
        },
      },
    },
  }
  meddle(initramfs)
  const result = drive(scenario)
  // Its start and its TPM are recorded by others than the machine.
  return { ...result, facts: result.facts.filter(({ k }) => !k.startsWith('machine.')) }
}

const saying = (...lines: string[]): Result => play([...UP, ...lines, STAY])

/** How it ended; nothing of the machine is left whatever the end. */
function end(result: Result): string {
  const { ev, ...rest } = last(result) ?? { ev: 'nothing' }
  const left = readdirSync('/proc').filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(dir)
    } catch {
      return false
    }
  })
  assert.deepEqual(left, [], 'processes that are left')
  const words = Object.values(rest) as readonly (string | number | null)[]
  return [ev, ...words.filter((word) => word !== null)].join(': ')
}

test('what a guest may say ends a session as it says', options, () => {
  assert.equal(end(saying('say {"ev":"ended","code":0}')), 'exit: 0', 'while all of it still runs')
  assert.equal(end(saying('say {"ev":"ended","code":4096007}')), 'exit: 7', 'only what a status holds')
  assert.equal(end(saying('say {"ev":"ended","signal":15}')), 'exit: 15')
  assert.equal(end(saying('say {"ev":"over-limit","limit":"\\u001b[2J"}')), 'over-limit: memory')
  const told = saying(`say ${LAUNCH}`, 'hear', 'say {"ev":"ended","code":3}')
  assert.deepEqual(
    told.facts.map(({ k, path, digest }) => [k, path, digest]),
    [['process.launch', '/usr/bin/id', 'digest of the image']],
    'the digest is not of its saying',
  )
})

test('what it may not say ends the session with one line, and what was recorded stays', options, () => {
  const launch = (change: (text: string) => string): string => `say ${change(LAUNCH)}`
  for (const [line, why] of [
    ['say {"ev":"ended","signal":0}', /out of turn/],
    ['say {"ev":"ended","signal":65}', /out of turn/],
    ['say {"ev":"ended","code":0,"signal":9}', /out of turn/],
    ['say {"ev":"running","pid":1}', /out of turn/],
    ['say {"ev":"hello","v":1}', /out of turn/],
    ['say {"ev":"ready","controls":[],"registers":{}}', /out of turn/],
    ['say {"ev":"warm"}', /out of turn/],
    ['say {"ev":"exit","fact":{"k":"file.hash","path":"/x","size":1,"sha256":"x"}}', /out of turn/],
    ['say', /what is no event/],
    ['say {"ev":"shutdown"}', /what is no event/],
    ['say {"ev":"failed","what":"\\u001b[2Jx","why":"\\u0007y","remedy":null}', /^the guest: \?\[2Jx: \?y/],
    [launch((text) => text.replace('"pid":5', '"pid":-5')), /what no sensor tells/],
    [launch((text) => text.replace('["id"]', `[${Array(300).fill('"a"').join()}]`)), /what no sensor tells/],
    [launch((text) => text.replace('"/usr/bin/id"', `"/${'x'.repeat(40_000)}"`)), /what no sensor tells/],
    [launch((text) => text.replace('"n":1', '"n":-1')), /what is no event/],
    ['tpm 0000000d', /the machine's TPM: QEMU asks 0xd/],
    ['io 0100ffffff', /no frame/],
    ['io 0300000000', /no frame/],
    ['io 0001000000ff', /no frame/],
    ['exit 0', /^the machine: it ended before the command did/],
    ['exit 3', /^the machine: it ended before the command did/],
    ['die 11', /^the machine: it ended before the command did/],
  ] as const) {
    const result = saying(`say ${LAUNCH}`, 'hear', line)
    const how = end(result).replace(/^failed: /, '')
    assert.match(how, why, line.slice(0, 60))
    assert.ok(how.length < 500 && !/\p{Cc}/u.test(how), how)
    assert.equal(result.facts.length, 1, `the record before ${line.slice(0, 60)}`)
  }
})

test('numbers that come again, and words in pieces, are words all the same', options, () => {
  const again = saying(
    `say ${LAUNCH}`,
    `say ${LAUNCH}`,
    'hear',
    'hear',
    'half {"ev":"en',
    'wait 50',
    'say ded","code":4}',
  )
  assert.equal(end(again), 'exit: 4')
  assert.equal(again.facts.length, 2)
})

test('floods are bounded in memory and end the session where nobody listens', options, () => {
  const calm = saying('say {"ev":"ended","code":0}').peakKiB
  const long = `half ${'x'.repeat(900_000)}`
  assert.match(end(play([...UP, long, STAY])), /a line without end/)
  const deaf = play([...UP, `flood 60000 ${LAUNCH}`, STAY])
  assert.match(end(deaf), /telling the guest: it does not listen/)
  assert.ok(deaf.facts.length > 1000, `${deaf.facts.length} records are kept`)
  const output = play([...UP, 'flood-io 160', 'say {"ev":"ended","code":0}', STAY])
  assert.equal(end(output), 'exit: 0')
  for (const { peakKiB } of [deaf, output])
    assert.ok(peakKiB < calm + 8_192, `${peakKiB} KiB, without a flood ${calm}`)
})

test('silence and half a word end with the clock, and an order to kill is obeyed', options, () => {
  const limits = { wallclock: 700 }
  for (const lines of [[], ['half {"ev":"en'], ['io 01ffff']])
    assert.equal(end(play([...UP, ...lines, STAY], { limits })), 'timeout')
})

test(
  'the monitor of a machine that goes on from a snapshot is closed once it was told to read it',
  options,
  () => {
    const path = program('snapshot')
    // Of a machine whose memory is all zeros: no runs of pages (native/launch/src/vm/memory.rs).
    writeFileSync(path, Buffer.concat([Buffer.alloc(16), Buffer.from('AMBITMEM')]))
    const told = ['monitor', 'hear', 'ready', 'hear', 'say {"ev":"running","pid":1}', 'report', 'wait 200']
    const lines = [...told, 'say {"ev":"ended","code":0}', STAY]
    const result = play(lines, {}, undefined, { use: 'resume', path, verified: verified(path) })
    assert.equal(end(result), 'exit: 0')
    assert.deepEqual(
      result.facts.map((fact) => fact.path),
      ['qmp_capabilities', 'migrate-set-capabilities', 'migrate-incoming', 'closed'],
    )
  },
)

/** Everything outside succeeds: what is refused in the cell is refused by the cell. */
test('a QEMU that was taken over finds nothing in its cell', options, async () => {
  const server = createServer((socket) => socket.end('local service')).unref()
  const abstract = createServer().unref()
  const name = `ambit-false-${process.pid}`
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  await new Promise<void>((resolve) => abstract.listen(`\0${name}`, resolve))
  const { port } = server.address() as { port: number }
  const secret = program('secret')
  writeFileSync(secret, 'secret')
  const tries = [
    'umask', `read ${secret}`, `create ${program('made')}`, `path @${name}`, `port 127.0.0.1:${port}`, 'netlink', 'packet',
  ].filter((line) => isRoot || line !== 'packet') // biome-ignore format: a list
  const only = [
    'port 192.0.0.1:61801', 'port 127.0.0.1:61801', 'port 192.0.0.2:80', 'port 127.0.0.1:61880', 'vsock', 'ptrace', 'mount',
    'unshare', 'descriptors', 'processes', 'write /.ambit/machine/root', 'write /usr/share/qemu', 'create /tmp/x',
    'create /x', 'create /.ambit/machine/x', 'read /proc/1/root', 'read /proc/1/mem', 'read /etc/passwd', 'read /dev/kvm',
    'read /dev/net/tun', 'read /home', 'read /run', 'read /sys/kernel',
  ] // biome-ignore format: a list
  const all = [...tries, ...only]
  const result = play([
    ...UP,
    ...all.map((line) => `try ${line}`),
    'report',
    'wait 200',
    'say {"ev":"ended","code":0}',
    STAY,
  ])
  assert.equal(end(result), 'exit: 0')
  const answers = result.facts.map(({ path = '' }) => path)
  assert.equal(answers.length, all.length)
  assert.deepEqual(
    answers.filter((answer) => answer.endsWith('=ok')),
    [],
  )
  writeFileSync(program('part-outside'), [...tries.map((line) => `try ${line}`), 'report', ''].join('\n'))
  const outside = spawnSync(program('outside'), { encoding: 'utf8' })
  const outsideAnswers = outside.stdout.trim().split(';').filter(Boolean)
  assert.deepEqual(
    outsideAnswers.filter((answer) => !answer.endsWith('=ok')),
    [],
    'control: outside each succeeds',
  )
})

test(
  'a part that was altered after it was verified is not started, though size and time are put back',
  options,
  () => {
    const stamp = program('stamp')
    const put = (content: string) => (initramfs: string) => {
      execFileSync('touch', ['-r', initramfs, stamp])
      if (content !== '') writeFileSync(initramfs, content)
      if (content !== '') execFileSync('touch', ['-r', stamp, initramfs])
    }
    const lines = [...UP, 'say {"ev":"ended","code":0}', STAY]
    assert.equal(end(play(lines, {}, put(''))), 'exit: 0', 'control')
    assert.match(end(play(lines, {}, put('altered!!'))), /^failed: .*changed since it was verified/)
  },
)

test("QEMU's and the TPM's files are nobody else's, whatever the caller's umask", options, async () => {
  // One mask a process with that name that descends from this one.
  const watch = `
import os, sys, time
def field(pid, name):
    try:
        with open('/proc/%s/status' % pid) as file:
            return next((line.split()[1] for line in file if line.startswith(name + ':')), None)
    except OSError: return None
def ours(pid):
    while pid not in (None, '0', '1'):
        if pid == str(os.getppid()): return True
        pid = field(pid, 'PPid')
end = time.time() + 20
print('ready', flush=True)
while time.time() < end:
    for pid in filter(str.isdigit, os.listdir('/proc')):
        if field(pid, 'Name') == 'swtpm' and ours(pid): sys.exit(print(field(pid, 'Umask')))
    time.sleep(0.005)
`
  const watcher = spawn('python3', ['-c', watch], { stdio: ['ignore', 'pipe', 'inherit'] })
  const seen = text(watcher.stdout)
  await once(watcher.stdout, 'readable')
  const before = process.umask(0)
  try {
    const result = play([...UP, 'try umask', 'report', 'wait 200', 'say {"ev":"ended","code":0}', STAY])
    assert.equal(end(result), 'exit: 0')
    assert.deepEqual(
      result.facts.map(({ path }) => path),
      ['umask=none'],
    )
  } finally {
    process.umask(before)
  }
  assert.equal(await seen, 'ready\n0077\n')
})

test('a QEMU that starts a program ends its session', options, () => {
  const result = saying('try exec /usr/bin/qemu-system-x86_64', 'wait 3000', 'say {"ev":"ended","code":0}')
  assert.match(end(result), /^failed: .*QEMU tried to start/)
})
