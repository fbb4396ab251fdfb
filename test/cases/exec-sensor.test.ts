/** The exec sensor's record is of what ran, however a program was named. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, readFileSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { RUNTIME } from '../support/runtime.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

const PYTHON = '/usr/bin/python3'
const missing =
  RUNTIME !== 'os-sandbox' ? 'of os-sandbox' : existsSync(PYTHON) ? null : 'needs /usr/bin/python3'

function asBoth(title: string, body: (as: As) => Promise<unknown>): void {
  for (const as of ['user', 'root'] as const)
    test(`exec sensor: ${title}, as ${as}`, { skip: missing ?? unavailable(as) ?? false }, async () => {
      await body(as)
    })
}

const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

/** A stage with a `prog` that says nothing, and another one, `own/prog`, that says what it is given. */
function stageOf(as: As): Stage {
  const stage = new Stage(as, { files: { 'own/': '', 'threads.py': THREADS } })
  copyFileSync('/usr/bin/true', join(stage.project, 'prog'))
  copyFileSync('/usr/bin/echo', join(stage.project, 'own/prog'))
  stage.own()
  return stage
}

/** A thread runs a program in a child process; as the second word says, with a directory and descriptors of its own. */
const THREADS = `
import ctypes, os, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
way, own = sys.argv[1:]
AT_EMPTY_PATH, CLONE_FS, CLONE_FILES = 0x1000, 0x200, 0x400
EXECVEAT = {"x86_64": 322, "aarch64": 281}[os.uname().machine]
words = (ctypes.c_char_p * 3)(b"prog", way.encode(), None)

def execveat(directory, path, flags):
    libc.syscall(EXECVEAT, directory, path, words, ctypes.c_void_p.in_dll(libc, "environ"), flags)

WAYS = {
    "relative": lambda: execveat(-100, b"prog", 0),
    "directory": lambda: execveat(9, b"prog", 0),
    "descriptor": lambda: execveat(8, b"", AT_EMPTY_PATH),
    "own-link": lambda: execveat(-100, b"/proc/thread-self/fd/8", 0),
    "process-link": lambda: execveat(-100, b"/proc/self/fd/8", 0),
    "dotted-link": lambda: execveat(-100, b"/proc/./self/fd/8", 0),
    "number-link": lambda: execveat(-100, b"/proc/%d/fd/8" % os.getpid(), 0),
    "parent-link": lambda: execveat(-100, b"/proc/%d/fd/8" % os.getppid(), 0),
}

def place(name):
    os.chdir(name)
    for number, path in (8, "prog"), (9, "."):
        os.dup2(os.open(path, os.O_PATH), number, inheritable=True)

def run():
    if own == "own":
        assert libc.unshare(CLONE_FS | CLONE_FILES) == 0, os.strerror(ctypes.get_errno())
        place("own")
    if way == "undumpable":
        libc.prctl(4, 0)
    WAYS.get(way, WAYS["descriptor"])()
    print("not run:", os.strerror(ctypes.get_errno()), flush=True)
    os._exit(1)

place(".")
if os.fork() == 0:
    threading.Thread(target=run).start()
    while True:
        threading.Event().wait()
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
`

/** By a link of a process, which is its first thread's. */
const PROCESS_WAYS = ['process-link', 'dotted-link', 'number-link', 'parent-link']
const WAYS = ['relative', 'directory', 'descriptor', 'own-link', ...PROCESS_WAYS, 'undumpable']

asBoth('knows what a thread runs that has a directory and descriptors of its own', async (as) => {
  const stage = stageOf(as)
  const each = (own: string): string =>
    WAYS.map((way) => `${PYTHON} threads.py ${way} ${own} || exit 9`).join('; ')
  const ran = await stage.session(['/bin/sh', '-c', `${each('own')}; ${each('shared')}`])
  assert.equal(ran.code, 0, describe(ran))
  // What ran has the word: the links of a process lead to the silent one.
  const own = WAYS.filter((way) => !PROCESS_WAYS.includes(way))
  assert.equal(ran.stdout, own.map((way) => `${way}\n`).join(''), describe(ran))
  const launched = (await stage.events())
    .filter((event) => event.ambit.kind === 'process.launch' && event.process.cmd_line.startsWith('prog '))
    .map(({ process: { cmd_line: line, file } }) => [line, file.path, file.hashes?.[0]?.value])
  const silent = join(stage.project, 'prog')
  const speaking = join(stage.project, 'own/prog')
  const record = (way: string, path: string): string[] => [`prog ${way}`, path, sha256(path)]
  assert.deepEqual(launched, [
    ...WAYS.map((way) => record(way, PROCESS_WAYS.includes(way) ? silent : speaking)),
    ...WAYS.map((way) => record(way, silent)),
  ])
})

/** Runs a program three times; changes it before the second by a mapping, before the third by a write, each at once. */
const CHANGES = `
import hashlib, mmap, os, shutil, subprocess, sys

path = sys.argv[1] + "/changing"
shutil.copy("/usr/bin/echo", path)
place = os.path.getsize(path) - 1

def run():
    print(hashlib.sha256(open(path, "rb").read()).hexdigest(), flush=True)
    subprocess.run([path], stdout=subprocess.DEVNULL, check=True)

run()
with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
    content[place] ^= 1
run()
with open(path, "r+b") as file:
    file.seek(place)
    file.write(b"x")
run()
`

asBoth('has the digest of what runs, however it was changed', async (as) => {
  const stage = new Stage(as, { files: { 'changes.py': CHANGES } })
  const places = ['/tmp', '/dev/shm', '$HOME', '.']
  const each = places.map((place) => `${PYTHON} changes.py "${place}"`).join(' && ')
  const ran = await stage.session(['/bin/sh', '-c', each])
  assert.equal(ran.code, 0, describe(ran))
  const digests = (await stage.events())
    .filter(
      ({ ambit, process }) => ambit.kind === 'process.launch' && process.file.path.endsWith('/changing'),
    )
    .map(({ process }) => process.file.hashes?.[0]?.value)
  const expected = ran.stdout.trim().split('\n')
  assert.equal(new Set(expected).size, 3, 'control: three programs')
  assert.deepEqual(digests, expected)
})

/** Keeps a mapping over a start that fails for it, and changes the program by it once more before the next. */
const KEPT = `
import errno, hashlib, mmap, os, shutil, subprocess, sys, time

path = sys.argv[1] + "/kept"
shutil.copy("/usr/bin/echo", path)
place = os.path.getsize(path) - 1

def run():
    print(hashlib.sha256(open(path, "rb").read()).hexdigest(), flush=True)
    subprocess.run([path], stdout=subprocess.DEVNULL, check=True)

with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
    content[place] ^= 1
    time.sleep(0.3)
    try:
        run()
    except OSError as error:
        assert error.errno == errno.ETXTBSY
    content[place] ^= 2
run()
run()
`

asBoth('has the digest of what runs, changed by a mapping that was kept over a start', async (as) => {
  const stage = new Stage(as, { files: { 'kept.py': KEPT } })
  const places = ['/tmp', '$HOME', '.']
  const each = places.map((place) => `${PYTHON} kept.py "${place}"`).join(' && ')
  const ran = await stage.session(['/bin/sh', '-c', each])
  assert.equal(ran.code, 0, describe(ran))
  const digests = (await stage.events())
    .filter(({ ambit, process }) => ambit.kind === 'process.launch' && process.file.path.endsWith('/kept'))
    .map(({ process }) => process.file.hashes?.[0]?.value)
  const expected = ran.stdout.trim().split('\n')
  assert.equal(new Set(expected).size, 2, 'control: two programs')
  assert.deepEqual(digests, expected)
})

asBoth('remembers the digest of a large program on the view, and of none in the home', async (as) => {
  const stage = new Stage(as, { files: {} })
  const large = join(stage.project, 'large')
  copyFileSync('/usr/bin/true', large)
  truncateSync(large, 5 << 20)
  stage.own()
  const runs = 'for path in ./large "$HOME/large"; do $path; sleep 2; $path; done'
  const ran = await stage.session(['/bin/sh', '-c', `cp large "$HOME/large"; sleep 1; ${runs}`])
  assert.equal(ran.code, 0, describe(ran))
  const digests = (await stage.events())
    .filter(({ ambit, process }) => ambit.kind === 'process.launch' && process.file.path.endsWith('/large'))
    .map(({ process }) => process.file.hashes?.[0]?.value)
  assert.deepEqual(digests, [undefined, sha256(large), undefined, undefined])
})
