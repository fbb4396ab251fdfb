/** What a person or an agent tries first and cannot have: each says why and what to do, inside and in `ambit why`. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { after, test } from 'node:test'
import { once } from '../support/case.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

const has = (program: string): boolean =>
  (process.env.PATH ?? '').split(':').some((dir) => existsSync(`${dir}/${program}`))

interface Try {
  readonly name: string
  /** The program that the machine must have, where the session does not bring an answer of its own. */
  readonly needs?: string
  readonly script: string
  /** What is read inside. */
  readonly says: RegExp
  /** Of `ambit why`: how the target begins, the reason, and what the advice names. */
  readonly why: readonly [target: string, reason: string, advice: RegExp]
}

const command = (name: string, args: string, says: RegExp): Try => ({
  name,
  script: `${name} ${args}`,
  says,
  why: [name, 'command.unavailable', says],
})

/** A server-first protocol, or bytes of one that needs no client here. */
const raw = (host: string, port: number, bytes: string): string =>
  `python3 - <<'END'
import socket
s = socket.create_connection(('${host}', ${port}), 20); s.settimeout(20)
s.sendall(b'${bytes}')
while d := s.recv(4096): print(repr(d))
END`

const TRIES: readonly Try[] = [
  command('sudo', 'ls', /nobody gains rights inside/),
  command('su', '-', /nobody gains rights inside/),
  command('passwd', '', /nobody gains rights inside/),
  command('strace', 'true', /no process of a session may look into another/),
  command('reboot', '', /nothing of a session outlives it/),
  command('docker', 'ps', /containers need a service of the host/),
  command('podman', 'ps', /containers need a service of the host/),
  command('apt-get', 'install hello', /system is read-only/),
  command('ping', '-c1 example.com', /no ICMP or UDP leaves/),
  command('code', '.', /no desktop/),
  command('xdg-open', 'https://login.test/?a', /no desktop/),
  command('xclip', '-o', /no clipboard/),
  {
    name: 'ssh',
    needs: 'ssh',
    script: 'ssh -o BatchMode=yes git@ssh.test',
    says: /Refused by Ambit: SSH does not pass.*https:\/\//,
    why: ['ssh.test:22', 'net.protocol-ssh', /https:\/\/ address/],
  },
  {
    name: 'git over SSH',
    needs: 'ssh',
    script: 'git clone git@forge.test:a/b.git $AMBIT_WORKSPACE/ssh-clone',
    says: /Refused by Ambit: SSH does not pass.*https:\/\//,
    why: ['forge.test:22', 'net.protocol-ssh', /https:\/\/ address/],
  },
  {
    name: 'git over HTTPS without a rule',
    script: 'git clone https://code.test/a/b.git $AMBIT_WORKSPACE/https-clone',
    says: /remote: Refused by Ambit: No network rule of this profile names code\.test/,
    why: ['GET code.test/a/b.git/info/refs?…', 'network.no-matching-rule', /send to code\.test/],
  },
  {
    name: 'git clone into the project',
    script: 'git clone https://code.test/a/b.git here',
    says: /\.git: Permission denied/,
    why: ['PROJECT/here/.git', 'mkdir: protected', /work in \$\{workspace\} \(\/.*\/workspace\)/],
  },
  {
    name: 'wget',
    needs: 'wget',
    script: 'wget -q -O- https://wget.test/x; wget -nv -O- https://wget.test/x',
    says: /ERROR 403: Refused by Ambit/,
    why: ['GET wget.test/x', 'network.no-matching-rule', /send to wget\.test/],
  },
  {
    name: 'npm',
    script:
      'cd $AMBIT_WORKSPACE && npm install --registry=https://npm.test/ --no-audit --no-update-notifier --fetch-retries=0 left-pad',
    says: /403 Refused by Ambit - GET https:\/\/npm\.test\/left-pad - No network rule/,
    why: ['GET npm.test/left-pad', 'network.no-matching-rule', /send to npm\.test/],
  },
  {
    name: 'psql',
    needs: 'psql',
    script: 'psql -h db.test -U someone -c "select 1"',
    says: /FATAL: {2}Refused by Ambit: PostgreSQL passes to a host that a rule pins/,
    why: ['db.test:5432', 'net.protocol-postgres', /inspect: false/],
  },
  {
    name: 'Redis',
    script: raw('redis.test', 6379, '*1\\r\\n$4\\r\\nPING\\r\\n'),
    says: /-ERR Refused by Ambit: Redis passes to a host that a rule pins/,
    why: ['redis.test:6379', 'net.protocol-redis', /inspect: false/],
  },
  {
    name: 'MySQL',
    script: raw('mysql.test', 3306, ''),
    says: /Refused by Ambit: MySQL passes only to a host that a rule pins/,
    why: ['mysql.test:3306', 'net.protocol-mysql', /speak first/],
  },
  {
    name: 'mail',
    script: raw('mail.test', 587, ''),
    says: /554 Refused by Ambit: mail does not pass/,
    why: ['mail.test:587', 'net.protocol-mail', /Mail does not pass/],
  },
  {
    name: 'a protocol that nobody knows',
    script: raw('other.test', 9999, '\\x01\\x02\\x03\\x04'),
    says: /^$/, // closed: there is no word that it would understand
    why: ['other.test:9999', 'net.unknown-protocol', /inspect: false/],
  },
]

/** All of them in one session of the shipped profile. */
const session = once(async (as: As) => {
  const stage = new Stage(as, { files: { 'a.txt': 'a\n' } })
  const tried = TRIES.filter(({ needs }) => needs === undefined || has(needs))
  const script = tried
    .map(({ script }, index) => `echo "@@${index}"; ( ${script}\n ) </dev/null 2>&1`)
    .join('\n')
  const places = ['--project', stage.project, '--workspace', stage.workspace]
  const ran = await stage.ambit(['run', '-yq', ...places, '--', '/bin/bash', '-c', script])
  const said = new Map<Try, string>()
  for (const part of ran.stdout.split(/^@@/m).slice(1)) {
    const one = tried[Number.parseInt(part, 10)]
    if (one) said.set(one, part.slice(part.indexOf('\n') + 1))
  }
  const why = JSON.parse((await stage.ambit(['why', '--json'])).stdout) as any[]
  return { stage, ran, said, why }
})

for (const as of ['user', 'root'] as const)
  for (const one of TRIES) {
    const missing = one.needs !== undefined && !has(one.needs) ? `${one.needs} is not installed` : null
    test(`${one.name} says why not, as ${as}`, { skip: unavailable(as) ?? missing ?? false }, async () => {
      const { stage, ran, said, why } = await session(as)
      assert.match((said.get(one) ?? '').trim(), one.says, describe(ran))
      const [target, reason, advice] = one.why
      const wanted = target.replace('PROJECT', stage.project)
      const remedy = why.find((entry) => entry.target === wanted && entry.reason === reason)
      assert.ok(remedy, `${wanted} ${reason}: ${JSON.stringify(why, null, 1)}`)
      assert.match(remedy.advice, advice)
    })
  }

/** By their paths the programs themselves run, set-user-id bit and all. */
const BY_PATH: readonly (readonly [path: string, args: string, says: RegExp])[] = [
  ['/usr/bin/sudo', '-n id', /no new privileges/],
  ['/bin/su', '-c id root', /./],
  ['/bin/ping', '-c1 127.0.0.1', /not permitted|denied/],
  ['/bin/mount', '-t tmpfs none /mnt', /must be superuser|denied|not permitted/],
  ['/usr/bin/passwd', '', /./],
  ['/usr/bin/newgrp', 'root', /./],
]

const byPath = once(async (as: As) => {
  const script = BY_PATH.map(
    ([path, args], index) =>
      `echo "@@${index}"; timeout 20 ${path} ${args} </dev/null 2>&1; echo "@status $?"; ls $AMBIT_WORKSPACE >/dev/null`,
  )
  return (await new Stage(as).session(['/bin/bash', '-c', script.join('\n')])).stdout.split(/^@@/m).slice(1)
})

for (const as of ['user', 'root'] as const)
  for (const [index, [path, , says]] of BY_PATH.entries()) {
    const missing = existsSync(path) ? null : `there is no ${path}`
    test(`${path} ends by itself, gains nothing and says a word, as ${as}`, {
      skip: unavailable(as) ?? missing ?? false,
    }, async () => {
      const said = (await byPath(as))[index] ?? ''
      const status = Number(/@status (\d+)/.exec(said)?.[1])
      assert.ok(status > 0 && status < 124, said)
      assert.match(said, says)
      assert.doesNotMatch(said, /uid=0/)
    })
  }

test('a command that no session can give is refused before one starts', {
  skip: unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user')
  const ran = await stage.session(['sudo', 'ls'])
  assert.equal(ran.code, 126, describe(ran))
  assert.match(ran.stderr, /^ambit: sudo: nobody gains rights inside a session; run the command itself/)
  const control = await stage.session(['/bin/ls'])
  assert.equal(control.code, 0, describe(control))
})

const LIMITS = [
  [
    'memory',
    { memory: '128MiB' },
    'python3 -c "x = bytearray(400 << 20); import time; time.sleep(20)"',
    '256MiB',
  ],
  ['processes', { processes: 40 }, 'for i in $(seq 100); do sleep 20 & done; wait', '80'],
  ['wallclock', { wallclock: '3s' }, 'sleep 60', '6s'],
] as const

for (const [limit, isolation, script, doubled] of LIMITS)
  test(`a session that its limit of ${limit} ended is told the limit and how to raise it`, {
    skip: unavailable('user') ?? false,
  }, async () => {
    const stage = new Stage('user')
    const base = { runtime: 'os-sandbox', limits: 'partly', memory: '4GiB', processes: 512, wallclock: '5m' }
    const ran = await stage.session(['/bin/bash', '-c', script], {
      spec: { isolation: { ...base, ...isolation } },
    })
    assert.equal(ran.code, 125, describe(ran))
    const [remedy] = JSON.parse((await stage.ambit(['why', '--json'])).stdout) as any[]
    assert.equal(remedy.reason, `limit.${limit}`, describe(ran))
    assert.equal(remedy.rule, `isolation.${limit}`)
    assert.deepEqual(remedy.changes, [{ place: 'isolation', yaml: `${limit}: ${doubled}` }])
  })

test('the first mistakes are told from each other: no program, no project, too wide a one', {
  skip: unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user', { files: { 'notes.txt': 'notes', 'dir/a': 'a' } })
  const says = async (options: string[], argv: string[], cwd = stage.project) =>
    (await stage.ambit(['run', '--yes', ...options, '--', ...argv], { cwd })).stderr.split('\n').at(-2) ?? ''
  assert.match(await says([], ['nothing-of-this-name']), /no such command on PATH; install it/)
  assert.match(await says([], ['./nothing.sh']), /no such file; paths are relative to .*project/)
  assert.match(await says([], ['./notes.txt']), /no program that can be run; chmod \+x it/)
  assert.match(
    await says([], ['/bin/true'], stage.home),
    /the project, here or by --project \(.*\): holds your whole/,
  )
  assert.match(await says(['--project', '/nowhere'], ['/bin/true']), /\(\/nowhere\): does not exist/)
  await stage.ambit(['run', '--', '/bin/true'])
  const why = await stage.ambit(['why'])
  assert.match(why.stdout, /answer y at a terminal, or accept it with --yes/)
})
