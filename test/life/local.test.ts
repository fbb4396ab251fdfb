/** What programs do with files, processes and streams, inside: in the project under review and in the workspace. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { once } from '../support/case.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, identity, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

const SPEC = {
  files: [
    { path: '${project}', access: 'review' },
    { path: '${workspace}', access: 'write' },
  ],
}

const python = (body: string): string => `/usr/bin/python3 - <<'END'\n${body}\nEND`

/** Title → a script that fails when it does not work. `needs`: a program of the machine. */
const WORKS: Readonly<Record<string, { readonly needs?: string; readonly script: string }>> = {
  'gcc and make': {
    script: `printf '#include <stdio.h>\\nint main(){puts("built");}\\n' > h.c; printf 'h: h.c\\n\\tgcc -o h h.c\\n' > build.mk; make -f build.mk; [ $(./h) = built ]`,
  },
  'a Python environment': {
    script:
      'python3 -m venv --without-pip v && v/bin/python -c "import sys; assert sys.prefix.endswith(\'/v\')"',
  },
  'sqlite: locks, WAL, mmap': {
    needs: 'sqlite3',
    script:
      'sqlite3 w.db "pragma journal_mode=wal; create table a(b)" >/dev/null; for i in 1 2 3 4; do sqlite3 w.db ".timeout 20000" "pragma mmap_size=9999999; insert into a values($i)" >/dev/null & done; wait; [ $(sqlite3 w.db "select count(*) from a") = 4 ]',
  },
  flock: { script: 'flock lock -c "! flock -n lock -c true"' },
  'fcntl locks': {
    script: python(`import fcntl, os
f = open('lk', 'w'); fcntl.lockf(f, fcntl.LOCK_EX)
if os.fork() == 0:
    try: fcntl.lockf(open('lk', 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB); os._exit(1)
    except OSError: os._exit(0)
assert os.wait()[1] == 0`),
  },
  'shared mmap writes': {
    script: python(`import mmap, os
f = open('mm', 'w+b'); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192)
if os.fork() == 0: m[0:5] = b'child'; os._exit(0)
os.wait(); assert m[0:5] == b'child'; m.flush(); assert open('mm', 'rb').read(5) == b'child'`),
  },
  O_DIRECT: {
    script:
      'dd if=/dev/zero of=od bs=4096 count=4 oflag=direct 2>/dev/null && dd if=od of=/dev/null bs=4096 iflag=direct 2>/dev/null',
  },
  'hard and symbolic links': {
    script: 'echo x > l1; ln l1 l2; ln -s l1 l3; [ $(stat -c %h l2) = 2 ]; [ $(cat l3) = x ]',
  },
  'renames across directories': {
    script: 'mkdir -p d1 d2; echo y > d1/f; mv d1/f d2/f; mv d2 d3; [ $(cat d3/f) = y ]',
  },
  'sockets and FIFOs': {
    script: `mkfifo ff; (echo z > ff &); [ $(cat ff) = z ]; ${python(`import socket
s = socket.socket(socket.AF_UNIX); s.bind('so'); s.listen(1); c = socket.socket(socket.AF_UNIX); c.connect('so'); c.send(b'x')
assert s.accept()[0].recv(1) == b'x'`)}`,
  },
  inotify: {
    script: python(`import ctypes, select
l = ctypes.CDLL(None); fd = l.inotify_init(); l.inotify_add_watch(fd, b'.', 0xfff); open('ino', 'w').write('1')
assert select.select([fd], [], [], 5)[0]`),
  },
  'Python multiprocessing and shared memory': {
    script: `cat > mp.py <<'END'
import multiprocessing
from multiprocessing import shared_memory
def square(x): return x * x
if __name__ == '__main__':
    with multiprocessing.Pool(2) as pool: assert pool.map(square, range(4)) == [0, 1, 4, 9]
    q = multiprocessing.Queue(); q.put(1); assert q.get() == 1
    m = shared_memory.SharedMemory(create=True, size=9); m.close(); m.unlink()
END
/usr/bin/python3 mp.py`,
  },
  'scripts by their first line': {
    script: `printf '#!/usr/bin/env python3\\nprint(40+2)\\n' > s; chmod +x s; [ $(./s) = 42 ]`,
  },
  'npm run': {
    needs: 'npm',
    script: `mkdir n; cd n; echo '{"name":"a","version":"1.0.0","scripts":{"hi":"node -p 40+2"}}' > package.json; npm run -s hi | grep -x 42`,
  },
  'names in every script': {
    script:
      'touch -- "日本語" "é" "👩‍💻" " lead" "-dash"; [ $(ls | grep -c "日本語\\|👩‍💻") = 2 ]; rm -- -dash',
  },
  'locale and time zone': {
    script:
      '[ "$(TZ=Europe/Berlin date -d @0 +%H%Z)" = 01CET ] && python3 -c "import locale; locale.setlocale(locale.LC_ALL, \'\')"',
  },
  'EDITOR and dotfiles of the home': {
    script:
      '[ "$EDITOR" = vi ]; echo a > ~/.somerc; git config --global alias.st status; [ "$(git config --global alias.st)" = status ]',
  },
  'a server of its own, on both loopbacks': {
    script: python(`import http.server, socket, threading, urllib.request
class V6(http.server.HTTPServer): address_family = socket.AF_INET6
for kind, host in ((http.server.HTTPServer, '127.0.0.1'), (V6, '::1')):
    s = kind((host, 0), http.server.SimpleHTTPRequestHandler); threading.Thread(target=s.serve_forever, daemon=True).start()
    name = '[::1]' if ':' in host else 'localhost'
    assert urllib.request.urlopen(f'http://{name}:{s.server_port}/').status == 200`),
  },
  'git commits': {
    script:
      'git status --short > /dev/null; git -c user.name=t -c user.email=t@t commit -qam inside; git log --oneline | grep -q inside',
  },
}

const has = (program: string): boolean =>
  (process.env.PATH ?? '').split(':').some((dir) => existsSync(join(dir, program)))

const SETUP =
  'git init -q . && git config user.name t && git config user.email t@t && git add . && git commit -qm one && echo two >> a.txt'

/** Every script in the project, or in a repository in the workspace; title → what went wrong, empty for nothing. */
const battery = once(async (key: string) => {
  const [as, place] = key.split(' ') as [As, string]
  const stage = new Stage(as, {
    files: { 'a.txt': 'one\n' },
    spec: { ...SPEC, environment: { pass: ['EDITOR'] } },
  })
  const made = await stage.command(['/bin/sh', '-c', SETUP])
  assert.equal(made.code, 0, describe(made))
  const enter = place === 'project' ? '' : `cp a.txt $AMBIT_WORKSPACE; cd $AMBIT_WORKSPACE; ${SETUP}; `
  const parts = Object.values(WORKS).map(
    ({ script }, index) => `echo "@@${index}"; bash -e <<'SCRIPT' 2>&1\n${script}\nSCRIPT\necho "@status $?"`,
  )
  const options = { env: { EDITOR: 'vi' }, timeout: 150_000 }
  const ran = await stage.session(['/bin/bash', '-c', enter + parts.join('\n')], options)
  const results = ran.stdout.split(/^@@/m).slice(1)
  return new Map(Object.keys(WORKS).map((title, index) => [title, results[index] ?? describe(ran)]))
})

for (const key of ['user project', 'user workspace', 'root project'] as const)
  for (const [title, { needs }] of Object.entries(WORKS)) {
    const [as] = key.split(' ') as [As]
    const missing = needs && !has(needs) ? `${needs} is not installed` : null
    test(`${title}, ${key}`, { skip: unavailable(as) ?? missing ?? false }, async () => {
      assert.match((await battery(key)).get(title) ?? '', /@status 0\n/)
    })
  }

const user = { skip: unavailable('user') ?? false }

test('a stream in and a stream out', user, async () => {
  const stage = new Stage('user', { spec: SPEC })
  const bytes = randomBytes(3 << 20).toString('base64')
  const ran = await stage.session(
    [
      '/bin/sh',
      '-c',
      'tar c a.txt | (cd $AMBIT_WORKSPACE && tar x) ; cat > "$AMBIT_WORKSPACE/in"; sha256sum < "$AMBIT_WORKSPACE/in"',
    ],
    {
      input: bytes,
    },
  )
  assert.match(ran.stdout, new RegExp(createHash('sha256').update(bytes).digest('hex')), describe(ran))
  assert.equal(readFileSync(join(stage.workspace, 'in'), 'utf8') === bytes, true)
})

test('git on a plain mount takes files for unchanged without reading them', user, async () => {
  const stage = new Stage('user', { files: { 'a.txt': 'one\n' } })
  const setup = "touch -d '2 hours ago' a.txt && git init -q . && git add . && sleep 1.1 && chmod 000 a.txt"
  const made = await stage.command(['/bin/sh', '-c', setup])
  assert.equal(made.code, 0, describe(made))
  // What git would have to read, it cannot: with all of its checks it finds the file changed.
  const look = 'git ls-files -m; echo @@; git -c core.checkStat=default ls-files -m'
  const ran = await stage.session(['/bin/sh', '-c', look], {
    spec: { files: [{ path: '${project}', access: 'read', via: 'mount' }] },
  })
  assert.equal(ran.stdout, '@@\na.txt\n', describe(ran))
})

/** `ambit run` of a shell script, with its output as it comes. */
function start(stage: Stage, script: string) {
  const child = spawn(stage.product.ambit, stage.run(['/bin/sh', '-c', script], stage.profile()), {
    ...identity(stage.as),
    cwd: stage.project,
    env: stage.environment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const code = new Promise<number | null>((resolve) => child.once('exit', resolve))
  return { child, code }
}

test('100 MB of output pass, and nothing keeps them', user, async () => {
  const stage = new Stage('user', { spec: SPEC })
  const { child, code } = start(stage, 'head -c 104857600 /dev/zero')
  let bytes = 0
  let most = 0
  child.stdout.on('data', (chunk: Buffer) => {
    if (bytes === 0 || Math.floor((bytes + chunk.length) / (20 << 20)) > Math.floor(bytes / (20 << 20)))
      most = Math.max(most, residentKiB(child.pid ?? 0))
    bytes += chunk.length
  })
  assert.equal(await code, 0)
  assert.equal(bytes, 104_857_600)
  assert.ok(most > 0 && most < 150 << 10, `the supervisor had ${most} KiB`)
})

const residentKiB = (pid: number): number => {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0)
}

test('a reader that goes away ends the writer, as in any pipe', user, async () => {
  const stage = new Stage('user', { spec: SPEC })
  const { child, code } = start(stage, 'yes; echo $? > "$AMBIT_WORKSPACE/status"')
  await new Promise((resolve) => child.stdout.once('data', resolve))
  child.stdout.destroy()
  assert.equal(await code, 0)
  assert.equal(readFileSync(join(stage.workspace, 'status'), 'utf8'), '141\n')
})

test("the command's exit status and signals are those of ambit run", user, async () => {
  const stage = new Stage('user', { spec: SPEC })
  for (const [script, status] of [
    ['exit 42', 42],
    ['kill -KILL $$', 137],
    ['kill -SEGV $$', 139],
    ['kill -TERM $$', 143],
  ] as const)
    assert.equal((await stage.session(['/bin/sh', '-c', script])).code, status, script)
  const { child, code } = start(stage, 'trap "exit 9" TERM; echo ready; while :; do sleep 0.1; done')
  await new Promise((resolve) => child.stdout.once('data', resolve))
  child.kill('SIGTERM')
  assert.equal(await code, 9, 'a signal to ambit run reaches the command')
})

test('two sessions on one project at a time, each with its own changes and home', user, async () => {
  const stage = new Stage('user', { files: { 'a.txt': 'one\n' }, spec: SPEC })
  const script = (name: string): string =>
    `echo ${name} > a.txt; echo ${name} > ~/mine; touch "$AMBIT_WORKSPACE/${name}"; for i in $(seq 300); do [ -e "$AMBIT_WORKSPACE/a" ] && [ -e "$AMBIT_WORKSPACE/b" ] && break; sleep 0.1; done; cat a.txt ~/mine`
  const run = async (name: string) => stage.session(['/bin/sh', '-c', script(name)])
  const [a, b] = await Promise.all([run('a'), run('b')])
  assert.equal(a.stdout, 'a\na\n', describe(a))
  assert.equal(b.stdout, 'b\nb\n', describe(b))
  assert.equal(readFileSync(join(stage.project, 'a.txt'), 'utf8'), 'one\n', 'both wait for review')
})

test('what two sessions changed alike is a conflict for the second that is applied', user, async () => {
  const stage = new Stage('user', { files: { 'a.txt': 'one\n' }, spec: SPEC })
  const change = async (name: string) =>
    (await stage.session(['/bin/sh', '-c', `echo ${name} > a.txt; echo ${name} > ${name}.txt`])).summary
      .session
  const [first, second] = [await change('first'), await change('second')]
  const applied = await stage.ambit(['review', first, 'apply'])
  assert.equal(applied.code, 0, describe(applied))
  const late = await stage.ambit(['review', second, 'apply'])
  assert.equal(late.code, 1, describe(late))
  assert.match(late.stdout + late.stderr, /a\.txt.*conflict|conflict.*a\.txt/, describe(late))
  assert.equal(readFileSync(join(stage.project, 'a.txt'), 'utf8'), 'first\n')
  assert.equal(readFileSync(join(stage.project, 'second.txt'), 'utf8'), 'second\n')
})

/** Commits again and again, beside others who do: git's locks are files that only one can make. */
const commits = (name: string, count: number): string =>
  `for n in $(seq ${count}); do echo $n > ${name}-$n; for again in $(seq 200); do git add ${name}-$n 2>/dev/null && git commit -qm ${name}-$n ${name}-$n 2>/dev/null && break; sleep 0.05; done; done`

test(
  'two sessions and a person commit to one repository at a time, and no commit is lost',
  user,
  async () => {
    const stage = new Stage('user', { files: { 'a.txt': 'one\n' } })
    const made = await stage.command(['/bin/sh', '-c', SETUP])
    assert.equal(made.code, 0, describe(made))
    const inside = async (name: string) => stage.session(['/bin/bash', '-c', commits(name, 12)])
    const outside = stage.command(['/bin/bash', '-c', commits('person', 12)])
    for (const ran of await Promise.all([inside('a'), inside('b'), outside]))
      assert.equal(ran.code, 0, describe(ran))
    const log = await stage.command(['/bin/sh', '-c', 'git log --format=%s; git fsck --no-dangling'])
    const subjects = log.stdout.trim().split('\n')
    assert.deepEqual(
      subjects.toSorted(),
      [
        'one',
        ...['a', 'b', 'person'].flatMap((who) => Array.from({ length: 12 }, (_, n) => `${who}-${n + 1}`)),
      ].toSorted(),
    )
  },
)
