/** Holes that a hostile review found in the cell, the view and the review, each named after the nearest case. */
import assert from 'node:assert/strict'
import { existsSync, lstatSync, mkdirSync, readFileSync, readlinkSync, symlinkSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { attack } from '../support/case.ts'
import { eventually } from '../support/processes.ts'
import { PATIENCE, RUNTIME } from '../support/runtime.ts'
import { lines, PYTHON } from '../support/script.ts'
import { describe, Stage } from '../support/stage.ts'

const REVIEW = { files: [{ path: '${project}', access: 'review' }] }

attack('F-04', 'the summary never follows a link that the agent planted', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  stage.put(stage.outside, { 'victim.txt': 'precious', 'elsewhere/': '' })
  const summary = join(stage.project, 'reports/summary.json')
  mkdirSync(join(stage.project, 'reports'))
  stage.own()
  const [victim, elsewhere] = [join(stage.outside, 'victim.txt'), join(stage.outside, 'elsewhere')]
  // Once the file itself leads out, once its directory.
  const plants = [
    `ln -s ${victim} reports/summary.json && echo planted`,
    `mv reports moved && ln -s ${elsewhere} reports && echo planted`,
  ]
  for (const plant of plants) {
    const ran = await stage.session(['/bin/sh', '-c', plant], { args: ['--summary', summary] })
    assert.match(ran.stdout, /planted/, describe(ran))
    assert.equal(readFileSync(victim, 'utf8'), 'precious')
  }
  assert.ok(lstatSync(join(stage.project, 'moved/summary.json')).isFile(), 'control: it was written')
  assert.throws(() => lstatSync(join(elsewhere, 'summary.json')), { code: 'ENOENT' })
  return 'link replaced, swapped directory not entered'
})

attack('P-13', 'a link that leads out is marked, with its target', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a', 'deep/er/b.txt': 'b', 'was.txt': 'file' } })
  stage.put(stage.outside, { 'secret.txt': 'x' })
  symlinkSync('..', join(stage.project, 'deep/up'))
  symlinkSync(stage.outside, join(stage.project, 'own-link-out'))
  stage.own()
  const links = {
    absolute: stage.outside,
    relative: '../outside/secret.txt',
    'deep/climb': '../../outside',
    'through-links': 'deep/up/../x',
    'through-own': 'own-link-out/secret.txt',
    loop: 'loop',
    'was.txt': '/etc/passwd',
    'zz-inside': 'a.txt',
    'zz-absolute-inside': join(stage.project, 'deep/er'),
    'deep/er/zz-up-inside': '../up/a.txt',
    'zz-escape\u001b[31m': 'deep/../a.txt',
  }
  const make = lines(
    'import json, os, sys',
    'for n, t in json.loads(sys.argv[1]).items():',
    '  os.path.lexists(n) and os.unlink(n)',
    '  os.symlink(t, n)',
  )
  const ran = await stage.session([PYTHON, '-c', make, JSON.stringify(links)], { spec: REVIEW })
  assert.equal(ran.code, 0, describe(ran))
  const list = await stage.ambit(['review', ran.summary.session])
  for (const [name, target] of Object.entries(links)) {
    const line = list.stdout
      .split('\n')
      .find((text) => text.includes(`/project/${name.replace('\u001b', '\\x1b')} ->`))
    assert.ok(line?.includes(` -> ${target}`), `${name} without its target\n${list.stdout}`)
    assert.equal(line?.startsWith('! '), !name.includes('zz-'), line)
    assert.equal(line?.includes('(leads out)'), !name.includes('zz-'), line)
  }
  const marks = list.stdout.split('\n').map((line) => line[0])
  assert.ok(marks.lastIndexOf('!') < marks.indexOf(' '), 'marked ones come first')
  const inJson = ran.summary.pending.filter((change) => change.leadsOut).map((change) => change.path)
  assert.equal(inJson.length, 7, inJson.join())
  await stage.ambit(['review', ran.summary.session, 'apply'])
  assert.equal(
    readlinkSync(join(stage.project, 'zz-inside')),
    'a.txt',
    'control: a person may still apply them',
  )
  return '7 of 11 links marked'
})

attack('R-03', 'names and sizes that cost nothing do not stop the review', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  const script = lines(
    'import os',
    'open("honest.txt", "w").write("honest")',
    'os.truncate(os.open("hollow", os.O_CREAT | os.O_RDWR), 4 << 40)',
    'for i in range(40):',
    '  os.mkdir("d" * 200); os.chdir("d" * 200)',
    'open("leaf", "w").write("leaf")',
  )
  const ran = await stage.session([PYTHON, '-c', script], { spec: REVIEW })
  assert.equal(ran.code, 0, describe(ran))
  assert.ok(ran.summary.pending.some(({ path }) => path.endsWith('/leaf') && path.length > 8000))
  const applied = await stage.ambit(['review', ran.summary.session, 'apply'])
  assert.match(applied.stdout, /^failed +\S+\/hollow: .*holes/m, describe(applied))
  assert.equal(
    readFileSync(join(stage.project, 'honest.txt'), 'utf8'),
    'honest',
    'control: the rest is applied',
  )
  const dropped = await stage.ambit(['review', ran.summary.session, 'drop'])
  assert.equal(dropped.code, 0, describe(dropped))
  const left = await stage.ambit(['review', ran.summary.session])
  assert.match(left.stderr, /nothing waits/, describe(left))
  return `4 TiB and 8,000 characters reviewed in ${Math.round(applied.ms)} ms`
})

attack('P-13', 'a diff says what it does not show, and does not take for ever', async (as) => {
  const many = (word: string) => Array.from({ length: 40_000 }, (_, index) => `${word} ${index}`).join('\n')
  const stage = new Stage(as, {
    files: { 'long.js': `${'x\n'.repeat(200_000)}end`, 'other.txt': many('old'), 'latin.txt': '?' },
  })
  const script = lines(
    's = open("long.js").read(); open("long.js", "w").write(s[:-3] + "evil()")',
    'open("other.txt", "w").write("\\n".join("new %d" % i for i in range(40000)))',
    'open("latin.txt", "wb").write(b"caf\\xe9")',
  )
  const ran = await stage.session([PYTHON, '-c', script], { spec: REVIEW })
  assert.equal(ran.code, 0, describe(ran))
  const diff = await stage.ambit(['review', ran.summary.session, 'diff'], { timeout: 30_000 })
  assert.equal(diff.code, 0, describe(diff))
  const [, long = ''] = diff.stdout.split('long.js')
  assert.match(long.split('modified file')[0] ?? '', /the rest is not shown/)
  assert.match(diff.stdout, /^-old 0$/m)
  assert.match(diff.stdout, /^\+new 20000$/m)
  assert.match(diff.stdout, /^\+café$/m, 'what is not UTF-8 is shown, too')
  return `${Math.round(diff.ms)} ms`
})

attack('C-42', 'a socket that the host makes later under a plain root is out of reach', async (as) => {
  const stage = new Stage(as, { files: { 'data.txt': 'plain data' } })
  const socket = join(stage.project, 'late.sock')
  const connect = lines(
    'import os, socket, sys, time',
    'print(open("data.txt").read(), flush=True)',
    'if len(sys.argv) > 1: open(sys.argv[1] + "/ready", "w")',
    'for _ in range(200):',
    '  if "late.sock" in os.listdir("."): break',
    '  time.sleep(0.05)',
    's = socket.socket(socket.AF_UNIX); s.settimeout(5)',
    'try: s.connect("late.sock"); print("connected")',
    'except OSError as e: print("refused", e.errno)',
  )
  let taken = 0
  const server = createServer((client) => void (taken++, client.destroy()))
  server.unref()
  const listen = () => server.listen({ path: socket, readableAll: true, writableAll: true })
  const ready = (): boolean => existsSync(join(stage.workspace, 'ready'))
  const ran = await stage.session([PYTHON, '-c', connect, stage.workspace], {
    spec: {
      files: [
        { path: '${project}', access: 'read', via: 'mount' },
        { path: '${workspace}', access: 'write' },
      ],
    },
    onStart: () => void eventually(ready, 30_000 * PATIENCE).then(listen),
  })
  assert.match(ran.stdout, /plain data/, describe(ran))
  assert.match(ran.stdout, RUNTIME === 'container' ? /refused (1|111)$/m : /refused 111/, describe(ran))
  assert.equal(taken, 0)
  const control = await stage.command([
    'bwrap',
    '--ro-bind',
    '/',
    '/',
    '--dev',
    '/dev',
    PYTHON,
    '-c',
    connect,
  ])
  assert.match(control.stdout, /connected/, `control: a plain bind lets it through\n${describe(control)}`)
  server.close()
  return 'refused; a plain bind connects'
})

attack('C-41', 'a frozen session cannot wake itself', async (as) => {
  const stage = new Stage(as, { files: { count: '0' } })
  // A timer of the kernel's that sends SIGCONT, and a file that announces itself by it.
  const script = lines(
    'import ctypes, fcntl, os, signal, struct, sys, time',
    'libc = ctypes.CDLL(None, use_errno=True)',
    'signal.signal(signal.SIGCONT, lambda *a: None)',
    'event = (ctypes.c_char * 64)()',
    'struct.pack_into("<Qii", event, 0, 0, signal.SIGCONT, 0)',
    'timer = ctypes.c_void_p()',
    'made = libc.timer_create(1, event, ctypes.byref(timer))',
    'print("timer", made, flush=True)',
    'if made == 0: libc.timer_settime(timer, 0, struct.pack("<4q", 0, 10**6, 0, 10**6), None)',
    'try: fcntl.fcntl(0, 10, signal.SIGCONT); print("setsig", flush=True)',
    'except OSError: print("no setsig", flush=True)',
    'f, n = open("count", "w"), 0',
    'while len(sys.argv) < 2 or n < 10:',
    '  n += 1; f.seek(0); f.write(str(n)); f.flush(); time.sleep(0.002)',
  )
  const count = () => Number(readFileSync(join(stage.project, 'count'), 'utf8'))
  const control = await stage.command([PYTHON, '-c', script, 'once'])
  assert.match(control.stdout, /timer 0\nsetsig/, 'control: the kernel gives both without Ambit')
  stage.put(stage.project, { count: '0' })
  const running = stage.session([PYTHON, '-c', script])
  assert.ok(await eventually(() => count() > 10, 15_000 * PATIENCE), 'control: it runs')
  const list = await stage.ambit(['sessions', '--json'])
  const id = /s[0-9a-z]{8,}-[0-9a-z]+/.exec(list.stdout)?.[0] ?? ''
  assert.equal((await stage.ambit(['freeze', id])).code, 0)
  assert.ok(await eventually(async () => count() === (await later(count)), 5000))
  const before = count()
  assert.equal(await later(count, 1000), before, 'it went on while frozen')
  assert.equal((await stage.ambit(['thaw', id])).code, 0)
  assert.ok(await eventually(() => count() > before), 'control: it goes on when thawed')
  await stage.ambit(['kill', id])
  const ran = await running
  assert.match(ran.stdout, /timer -1\nno setsig/)
  return 'still while frozen'
})

async function later<T>(look: () => T, ms = 200): Promise<T> {
  await new Promise((resolve) => setTimeout(resolve, ms))
  return look()
}

attack('F-09', 'a protected directory that is a link stays where it leads', async (as) => {
  const stage = new Stage(as, { files: { 'config/claude/notes.txt': 'n', 'evil/settings.json': 'evil' } })
  symlinkSync('hop', join(stage.project, '.claude'))
  symlinkSync('config/claude', join(stage.project, 'hop'))
  stage.own()
  const tries = [
    'rm hop && ln -s evil hop',
    'mv config/claude was && ln -s ../evil config/claude',
    'mv config was && mkdir config && ln -s ../evil config/claude',
    'ln -sfn evil .claude',
    'mkdir -p config/claude ; cp evil/settings.json config/claude/settings.json',
    'cp evil/settings.json .claude/settings.json',
  ]
  const confined = await stage.session([
    '/bin/sh',
    '-c',
    `(${tries.join(') ; (')}); cp evil/settings.json hello && echo done`,
  ])
  assert.match(confined.stdout, /done/, `control: ordinary files are writable\n${describe(confined)}`)
  assert.throws(
    () => readFileSync(join(stage.project, '.claude/settings.json')),
    'it leads to what the agent wrote',
  )
  const free = await stage.command(['/bin/sh', '-c', tries[0] ?? ''])
  assert.equal(free.code, 0)
  assert.equal(readFileSync(join(stage.project, '.claude/settings.json'), 'utf8'), 'evil', 'control')
  return 'six ways refused'
})
