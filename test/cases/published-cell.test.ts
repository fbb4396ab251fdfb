/** V: weaknesses published about other sandboxes' containment, replayed here, each with what it does without Ambit. */
import assert from 'node:assert/strict'
import { existsSync, globSync, lstatSync, readdirSync, readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:net'
import { dirname, join } from 'node:path'
import { attack } from '../support/case.ts'
import { RUNTIME } from '../support/runtime.ts'
import { lines, PYTHON } from '../support/script.ts'
import { describe, Stage } from '../support/stage.ts'

const SECRET = 'the secret outside'

/** Runs one shell line inside and the same outside. */
async function both(stage: Stage, cmd: string, options: object = {}) {
  const argv = ['/bin/bash', '-c', cmd]
  return { inside: await stage.session(argv, options), outside: await stage.command(argv) }
}

const withSecret = (as: Parameters<typeof attack>[2] extends (as: infer A) => unknown ? A : never): Stage => {
  const stage = new Stage(as, { files: { '.env': SECRET, 'a.txt': 'a' } })
  stage.put(stage.outside, { 'secret.txt': SECRET })
  return stage
}

attack(
  'V-10',
  'another spelling of a path, the loader and a switched-off sandbox gain nothing',
  async (as) => {
    const stage = withSecret(as)
    const secret = join(stage.outside, 'secret.txt')
    const env = join(stage.project, '.env')
    const tries = {
      'alias of the root': `cat /proc/self/root${secret} /proc/self/root${env}`,
      'alias of the thread': `cat /proc/thread-self/root${secret} /proc/thread-self/cwd/.env`,
      'the loader': `/lib64/ld-linux-x86-64.so.2 /bin/cat ${secret} ${env}`,
      'a copy of a program': `cp /bin/cat ./dog && ./dog ${secret} ${env}`,
      'in the background': `cat ${secret} ${env} & wait`,
      'without a terminal': `setsid cat ${secret} ${env} </dev/null | cat`,
      'a nested sandbox': `bwrap --dev-bind / / cat ${secret} ${env}; unshare -rm cat ${secret}`,
      'a sandbox switched off':
        'mkdir -p ~/.claude && echo "{\\"sandbox\\":{\\"enabled\\":false},\\"dangerouslyDisableSandbox\\":true}" > ~/.claude/settings.json; ' +
        `IS_SANDBOX=0 AMBIT_UNSAFE=1 dangerouslyDisableSandbox=1 cat ${secret} ${env}`,
      'the supervisor ended': `kill -9 1; kill -9 -1 2>/dev/null; cat ${secret} ${env}`,
    }
    // All in one session; the last one ends it.
    const all = Object.entries(tries).map(([name, cmd]) => `echo "${name}"; (${cmd})`)
    const inside = await stage.session(['/bin/bash', '-c', all.join('\n')])
    assert.ok(!inside.stdout.includes(SECRET), describe(inside))
    for (const name of Object.keys(tries)) assert.ok(inside.stdout.includes(name), `${name} was tried`)
    for (const [name, cmd] of Object.entries(tries)) {
      const harmless = cmd.replace('kill -9 1; kill -9 -1 2>/dev/null; ', '')
      const outside = await stage.command(['/bin/bash', '-c', harmless])
      assert.ok(outside.stdout.includes(SECRET), `control: ${name} reads it outside\n${describe(outside)}`)
    }
    return `${Object.keys(tries).length} ways, none reads it`
  },
)

attack('V-10', 'code loaded into a program is confined as the program is', async (as) => {
  const stage = withSecret(as)
  const source = lines(
    '#include <stdio.h>',
    '#include <stdlib.h>',
    '__attribute__((constructor)) static void on_load(void) {',
    `  char text[64] = ""; FILE *f = fopen("${join(stage.outside, 'secret.txt')}", "r");`,
    '  if (f) fgets(text, sizeof text, f); printf("loaded [%s]\\n", text); fflush(stdout); _Exit(0); }',
  )
  stage.put(stage.project, { 'hook.c': source })
  const built = await stage.command(['cc', '-shared', '-fPIC', '-o', 'hook.so', 'hook.c'])
  assert.equal(built.code, 0, describe(built))
  const cmd = 'LD_PRELOAD=$PWD/hook.so git --version'
  const { inside, outside } = await both(stage, cmd)
  assert.match(outside.stdout, /loaded \[the secret/, 'control')
  assert.match(inside.stdout, /loaded \[\]/, describe(inside))
  return 'it loads and reads nothing'
})

attack('V-21', 'no socket that is visible through any kind of root can be reached', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  stage.put(stage.outside, { 'shown/': '' })
  const places = [stage.project, join(stage.outside, 'shown')].map((place) => join(place, 'host.sock'))
  const servers: Server[] = await Promise.all(places.map(listenOn))
  stage.own()
  const connect = lines(
    'import socket, sys',
    'for p in sys.argv[1:]:',
    '  for alias in (p, "/proc/self/root" + p):',
    '    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):',
    '      s = socket.socket(socket.AF_UNIX, kind); s.settimeout(2)',
    '      try: s.connect(alias); print("connected", p)',
    '      except OSError as e: print("refused", e.errno)',
  )
  const files = [
    { path: '${project}', access: 'write' },
    { path: join(stage.outside, 'shown'), access: 'read' },
  ]
  const argv = [PYTHON, '-c', connect, ...places]
  const inside = await stage.session(argv, { spec: { files } })
  const outside = await stage.command(argv)
  for (const server of servers) server.close()
  assert.equal(outside.stdout.match(/connected/g)?.length, 4, `control\n${describe(outside)}`)
  assert.equal(inside.stdout.match(/refused/g)?.length, 12, describe(inside))
  return '12 tries refused'
})

async function listenOn(path: string): Promise<Server> {
  const server = createServer((socket) => void socket.on('error', () => {}).end('host')).unref()
  await new Promise<void>((resolve) => server.listen({ path, readableAll: true, writableAll: true }, resolve))
  return server
}

attack('V-23', 'read-only holds on the host’s side, whatever is remounted inside', async (as) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a' } })
  stage.put(stage.outside, { 'shown/data.txt': 'data', 'plain/data.txt': 'data' })
  stage.own()
  const files = [
    { path: '${project}', access: 'write' },
    { path: join(stage.outside, 'shown'), access: 'read' },
    { path: join(stage.outside, 'plain'), access: 'read', via: 'mount' },
  ]
  const places = ['shown', 'plain'].map((name) => join(stage.outside, name))
  const tries = places.flatMap((place) => [
    `mount -o remount,rw ${place}`,
    `mount --bind ${place} ${place}`,
    `chmod 777 ${place}; echo changed > ${place}/data.txt`,
    `echo new > ${place}/new.txt`,
    `${PYTHON} -c "import os; os.ftruncate(os.open('${place}/data.txt', 0), 0)"`,
    `${PYTHON} -c "import mmap, os; f = os.open('${place}/data.txt', 0); m = mmap.mmap(f, 0, prot=3); m[0] = 88"`,
  ])
  const cmd = `(${tries.join(') ; (')}) ; echo mine > mine.txt`
  const inside = await stage.session(['/bin/bash', '-c', cmd], { spec: { files } })
  assert.ok(existsSync(join(stage.project, 'mine.txt')), `control: it writes elsewhere\n${describe(inside)}`)
  for (const place of places) {
    assert.equal(readFileSync(join(place, 'data.txt'), 'utf8'), 'data')
    assert.ok(!existsSync(join(place, 'new.txt')))
  }
  await stage.command(['/bin/bash', '-c', `echo new > ${places[0]}/new.txt`])
  assert.ok(existsSync(join(places[0] ?? '', 'new.txt')), 'control: the user may write there')
  return `${tries.length} tries, nothing changed`
})

attack('V-24', 'links that an agent leaves in its home are not followed by the next start', async (as) => {
  const stage = withSecret(as)
  stage.put(stage.outside, { 'precious.txt': 'precious', 'folder/': '', 'folder/kept.txt': 'kept' })
  const [precious, folder] = [join(stage.outside, 'precious.txt'), join(stage.outside, 'folder')]
  // Everything that Ambit, an adapter or a program's set-up writes into a home, led out; hidden ones as directories.
  const plant = lines(
    'import os, shutil, sys',
    'home, precious, folder = sys.argv[1:]',
    'home = os.path.expanduser("~") if home == "~" else home',
    'for name in [".gitconfig", ".bashrc", ".profile", ".npmrc", ".claude.json", ".netrc", "CLAUDE.md"]:',
    '  p = os.path.join(home, name)',
    '  if os.path.lexists(p): os.unlink(p)',
    '  os.symlink(precious, p)',
    'for name in [".cache", ".config", ".local", ".claude", ".codex", ".npm", ".ssh", "tmp", ".ambit"]:',
    '  p = os.path.join(home, name)',
    '  if os.path.isdir(p) and not os.path.islink(p): shutil.rmtree(p, True)',
    '  if not os.path.lexists(p): os.symlink(folder, p)',
    'print("planted", len(os.listdir(home)))',
  )
  const first = await stage.session([PYTHON, '-c', plant, '~', precious, folder])
  assert.match(first.stdout, /planted/, describe(first))
  const read =
    'test -L ~/.npmrc && echo linked; cat ~/.bashrc ~/.cache/kept.txt ~/.config/kept.txt ~/.ssh/kept.txt ~/.gitconfig; echo over'
  // The same agent: another one has another home.
  const second = await stage.session([PYTHON, '-c', `import os; os.system("${read}")`])
  assert.equal(second.code, 0, `the next session does not start\n${describe(second)}`)
  assert.match(second.stdout, /linked/, 'control: it has that home')
  assert.match(second.stdout, /over/, 'control: it looked')
  assert.ok(!/precious|kept/.test(second.stdout), describe(second))
  assert.equal(readFileSync(precious, 'utf8'), 'precious', 'written through a link')
  assert.deepEqual(readdirSync(folder), ['kept.txt'], 'something was put where a link leads')
  assert.ok(lstatSync(precious).isFile())
  // A start that follows what it finds.
  const home = dirname(globSync(join(stage.ambitHome, 'state/homes/*/.npmrc'))[0] ?? '')
  await stage.command(['/bin/sh', '-c', `echo changed > ${home}/.npmrc; echo mine > ${home}/.cache/made`])
  assert.equal(readFileSync(precious, 'utf8'), 'changed\n', 'control: a careless start writes through a link')
  assert.deepEqual(readdirSync(folder), ['kept.txt', 'made'], 'control: and into a directory')
  return 'next session runs, links lead nowhere'
})

attack(
  'V-24',
  'terminal, mount and namespace calls of the Flatpak reports are refused by the built command',
  async (as) => {
    const stage = new Stage(as)
    const probes = [
      ['tiocsti', 'CVE-2017-5226', /^EPERM$/, /^EBADF$/],
      ['tiocsti-high', 'CVE-2019-10063', /^EPERM$/, /^EBADF$/],
      ['clone3', 'CVE-2021-41133', /^ENOSYS$/, /^E(INVAL|FAULT)$/],
      ['open-tree', 'CVE-2021-41133', /^EPERM$/, /^E(BADF|NOENT)$/],
      ['tioclinux', 'CVE-2023-28100', /^EPERM$/, /^EBADF$/],
      ['unshare-user-high', 'CVE-2021-41133', /^EPERM$/, /^(ok|EINVAL)$/],
    ] as const
    const steps = probes.map(([name]) => ({ name, op: 'probe', args: [name] }))
    const [inside, outside] = [await stage.inside(steps), await stage.uncontrolled(steps)]
    for (const [name, cve, refused, asked] of probes) {
      assert.match(inside.result(name).value, refused, `${cve} ${name}`)
      assert.match(outside.result(name).value, asked, `control: ${name} reaches the kernel outside`)
    }
    return `${probes.length} calls refused`
  },
)

/** By the calls themselves: mv(1) would copy where a rename is refused. */
const REPLACE = lines(
  'import os',
  'for p in ["/dev/null", "/dev/console", "/dev/pts", "/dev/shm", "/proc", "/sys", "/tmp", "/etc"]:',
  '  for n, act in enumerate([os.rename, lambda p, to: os.unlink(p), lambda p, to: os.rmdir(p), lambda p, to: os.symlink("/x", p)]):',
  '    try: act(p, "/tmp/moved"); print("REPLACED", p, n)',
  '    except OSError: pass',
)

/**
 * On gVisor these lie in memory of the session's own kernel: who spoils them spoils them for itself, and nothing of the
 * runtime goes through them once the command runs.
 */
const SPOILED =
  RUNTIME === 'container' ? /^(REPLACED \/dev\/(null|console) \d|OPENED \/proc\/sysrq-trigger)$/ : /^(?!)/

attack('V-25', 'what the runc reports wrote through is shut', async (as) => {
  const stage = withSecret(as)
  const opens = (path: string): string => `(: >> ${path}) 2>/dev/null && echo OPENED ${path}`
  const masked = ['/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/1/exe']
  const cmd = [
    ...masked.map(opens),
    'for f in /proc/1/fd/* /proc/self/fd/*; do cat $f/../../outside/secret.txt; done 2>/dev/null',
    'cat /proc/1/cwd/../outside/secret.txt /proc/self/fd/3/secret.txt 2>/dev/null',
    // Masked places replaced by links, as in the set-up races: none of the mount points can be moved or removed.
    `${PYTHON} -c '${REPLACE}'`,
    `: >> ${join(stage.project, 'a.txt')} && echo OPENED mine`,
  ].join('; ')
  const inside = await stage.session(['/bin/bash', '-c', `${cmd}; true`])
  const said = inside.stdout.trim().split('\n')
  assert.deepEqual(
    said.filter((line) => !SPOILED.test(line)),
    ['OPENED mine'],
    `control: only its own file\n${describe(inside)}`,
  )
  const next = await stage.session(['/bin/sh', '-c', 'test -c /dev/null && test ! -e /x && echo whole'])
  assert.equal(next.stdout, 'whole\n', `another session's devices\n${describe(next)}`)
  assert.ok(lstatSync('/dev/null').isCharacterDevice(), 'the host’s')
  const free = await stage.command(['/bin/bash', '-c', 'exec 3<../outside; cat /proc/self/fd/3/secret.txt'])
  assert.equal(free.stdout, SECRET, 'control: a directory descriptor leads out where one is inherited')
  return `${masked.length + 8} places shut`
})
