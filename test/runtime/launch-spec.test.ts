import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Plan } from '../../src/profile/plan.ts'
import { buildLaunchSpec, type LaunchInput } from '../../src/runtime/build-launch-spec.ts'
import type { Agent } from '../../src/runtime/closure.ts'
import { CA_BUNDLE, CA_ONE } from '../../src/runtime/environment.ts'
import type { LaunchMount } from '../../src/runtime/launch-spec.ts'

const HOME = '/home/ada'

const agent: Agent = {
  name: '@openai/codex',
  version: '1',
  executable: `${HOME}/.nvm/versions/node/v22/lib/node_modules/@openai/codex/bin/codex.js`,
  argv0: `${HOME}/.nvm/versions/node/v22/bin/codex`,
  mounts: [{ path: `${HOME}/.nvm/versions/node/v22` }],
  links: [
    { name: 'codex', target: '/x/codex.js' },
    { name: 'node', target: '/x/node' },
    { name: 'node', target: '/y/node' },
  ],
  system: [],
  pathDirs: [`${HOME}/.nvm/versions/node/v22/bin`],
  digest: null,
  notes: [],
}

function plan(change: object = {}): Plan {
  const root = (path: string, variable: string) => ({
    id: 'files[0]',
    path,
    access: 'write',
    via: 'view',
    label: 'internal',
    hide: [],
    protect: [],
    review: [],
    variable,
    create: false,
  })
  return {
    version: 1,
    isolation: {
      runtime: 'os-sandbox',
      limits: 'partly',
      cpus: 2,
      memory: 4e9,
      processes: 100,
      wallclock: 1000,
      disk: 1e9,
    },
    roots: [root(`${HOME}/work/ledger/out`, 'workspace'), root(`${HOME}/work/ledger`, 'project')],
    credentials: [
      {
        name: 'anthropic',
        kind: 'header',
        header: 'x-api-key',
        prefix: '',
        source: 'env:ANTHROPIC_API_KEY',
        env: 'ANTHROPIC_API_KEY',
      },
    ],
    environment: { pass: ['EDITOR'], set: { MODE: 'demo' } },
    ...change,
  } as unknown as Plan
}

function input(change: Partial<LaunchInput> = {}): LaunchInput {
  return {
    plan: plan(),
    agent,
    adapter: { env: { QUIET: '1' } },
    session: 's1',
    argv: ['codex', 'exec', '--', '--dev-bind'],
    cwd: `${HOME}/work/ledger/q3`,
    placeholders: new Map([['anthropic', 'sk-ant-placeholder']]),
    terminal: false,
    journal: '/state/launch.wal',
    home: { inside: HOME, outside: '/state/homes/x' },
    env: {},
    owner: { host: { uid: 1000, gid: 1000 }, inside: { uid: 1000, gid: 1000 } },
    user: { name: 'ada', shell: '/bin/bash' },
    etc: '/run/s1/etc',
    host: {
      mounts: [{ kind: 'bind', source: '/usr', target: '/usr', write: false }],
      etcFiles: [],
      etcDirs: ['/etc/fonts'],
      roots: '',
      java: false,
      truststores: [],
    },
    tools: { bwrap: '/usr/bin/bwrap' },
    cell: { kind: 'bubblewrap' },
    ...change,
  }
}

const at = (mounts: readonly LaunchMount[], target: string): number =>
  mounts.findIndex((mount) => mount.target === target)

test('later mounts cover earlier ones in the order home, closure, outer root, inner root', () => {
  const { mounts } = buildLaunchSpec(input())
  const order = [
    '/usr',
    '/etc',
    '/etc/fonts',
    '/tmp',
    HOME,
    `${HOME}/.nvm/versions/node/v22`,
    `${HOME}/work/ledger`,
    `${HOME}/work/ledger/out`,
  ].map((target) => at(mounts, target))
  assert.ok(order.every((place) => place >= 0))
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  )
})

test('a view mount carries the index of its root in the plan, not of its depth', () => {
  const { mounts } = buildLaunchSpec(input())
  assert.deepEqual(mounts[at(mounts, `${HOME}/work/ledger`)], {
    kind: 'view',
    root: 1,
    target: `${HOME}/work/ledger`,
  })
  assert.deepEqual(mounts[at(mounts, `${HOME}/work/ledger/out`)], {
    kind: 'view',
    root: 0,
    target: `${HOME}/work/ledger/out`,
  })
})

test("nothing of the host is writable but the agent's home", () => {
  const { mounts } = buildLaunchSpec(input())
  const writable = mounts.filter((mount) => mount.kind === 'bind' && mount.write)
  assert.deepEqual(writable, [{ kind: 'bind', source: '/state/homes/x', target: HOME, write: true }])
})

test('whole /etc, the real home, /run and /var of the host are no sources', () => {
  const { mounts } = buildLaunchSpec(input())
  const sources = mounts.flatMap((mount) => (mount.kind === 'bind' ? [mount.source] : []))
  for (const source of ['/etc', HOME, '/run', '/var', '/', '/home', '/tmp', '/dev', '/proc', '/sys'])
    assert.ok(!sources.includes(source), source)
})

test("the command is the resolved program with the caller's arguments as they are", () => {
  assert.deepEqual(buildLaunchSpec(input()).argv, [agent.argv0, 'exec', '--', '--dev-bind'])
})

test('links in /run/ambit/bin are unique by name', () => {
  const { mounts } = buildLaunchSpec(input())
  const links = mounts.filter((mount) => mount.target.startsWith('/run/ambit/bin/'))
  const pairs = links.map((mount) => [mount.target, mount.kind === 'symlink' && mount.link])
  assert.deepEqual(pairs.slice(0, 2), [
    ['/run/ambit/bin/codex', '/x/codex.js'],
    ['/run/ambit/bin/node', '/x/node'],
  ])
  // The rest stands in for commands that no session can give.
  for (const [target, link] of pairs.slice(3)) assert.equal(link, '.unavailable', String(target))
  assert.equal(new Set(links.map(({ target }) => target)).size, links.length)
})

test("the start directory is the caller's where it is visible, else the project", () => {
  assert.equal(buildLaunchSpec(input()).cwd, `${HOME}/work/ledger/q3`)
  assert.equal(buildLaunchSpec(input({ cwd: `${HOME}/work/ledger-2` })).cwd, `${HOME}/work/ledger`)
  assert.equal(buildLaunchSpec(input({ cwd: '/proc/self/fd/7' })).cwd, `${HOME}/work/ledger`)
  assert.equal(buildLaunchSpec(input({ cwd: '/', plan: plan({ roots: [] }) })).cwd, HOME)
})

test("the environment holds what is named and nothing else of the caller's", () => {
  const { env } = buildLaunchSpec(
    input({
      env: {
        PATH: `${HOME}/.nvm/versions/node/v22/bin:${HOME}/bin:.:/usr/local/bin:${HOME}/work/ledger/.venv/bin`,
        LANG: 'de_DE.UTF-8',
        LC_TIME: 'C',
        TERM: 'xterm',
        TZ: 'UTC',
        EDITOR: 'vi',
        ANTHROPIC_API_KEY: 'sk-ant-real',
        AWS_SECRET_ACCESS_KEY: 'x',
        SSH_AUTH_SOCK: '/x',
        DBUS_SESSION_BUS_ADDRESS: 'x',
        DISPLAY: ':0',
        WAYLAND_DISPLAY: 'w',
        XDG_RUNTIME_DIR: '/run/user/1',
        LD_PRELOAD: '/x.so',
        NODE_OPTIONS: '--require x',
        BASH_ENV: '/x',
        PYTHONPATH: '/x',
        LC_lower: 'x',
        HTTPS_PROXY: 'x',
        SSL_CERT_FILE: '/evil',
        NODE_EXTRA_CA_CERTS: '/evil',
        HOME: '/other',
      },
    }),
  )
  const certificates = Object.keys(env).filter((name) => env[name] === CA_BUNDLE || env[name] === CA_ONE)
  const rest = Object.fromEntries(Object.entries(env).filter(([name]) => !certificates.includes(name)))
  assert.deepEqual(rest, {
    AMBIT_WORKSPACE: '/home/ada/work/ledger/out',
    LANG: 'de_DE.UTF-8',
    LC_TIME: 'C',
    TERM: 'xterm',
    TZ: 'UTC',
    EDITOR: 'vi',
    HOME,
    USER: 'ada',
    LOGNAME: 'ada',
    SHELL: '/bin/bash',
    QUIET: '1',
    MODE: 'demo',
    ANTHROPIC_API_KEY: 'sk-ant-placeholder',
    PATH: `/run/ambit/bin:${HOME}/.nvm/versions/node/v22/bin:/usr/local/bin:${HOME}/work/ledger/.venv/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin`,
  })
  for (const name of [
    'SSL_CERT_FILE',
    'REQUESTS_CA_BUNDLE',
    'CURL_CA_BUNDLE',
    'GIT_SSL_CAINFO',
    'PIP_CERT',
    'CARGO_HTTP_CAINFO',
    'AWS_CA_BUNDLE',
  ])
    assert.equal(env[name], CA_BUNDLE, name)
  for (const name of ['NODE_EXTRA_CA_CERTS', 'DENO_CERT']) assert.equal(env[name], CA_ONE, name)
})

test('a profile cannot replace the CA variables or a placeholder', () => {
  const { env } = buildLaunchSpec(
    input({
      plan: plan({
        environment: { pass: ['ANTHROPIC_API_KEY'], set: { SSL_CERT_FILE: '/x', ANTHROPIC_API_KEY: 'x' } },
      }),
      env: { ANTHROPIC_API_KEY: 'sk-real' },
    }),
  )
  assert.equal(env.SSL_CERT_FILE, CA_BUNDLE)
  assert.equal(env.ANTHROPIC_API_KEY, 'sk-ant-placeholder')
})

test('a credential that is not there leaves its variable unset', () => {
  assert.equal(
    buildLaunchSpec(input({ placeholders: new Map(), env: { ANTHROPIC_API_KEY: 'sk-real' } })).env
      .ANTHROPIC_API_KEY,
    undefined,
  )
})
