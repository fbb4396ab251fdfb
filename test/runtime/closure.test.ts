import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { AmbitError } from '../../src/lib/errors.ts'
import { readDynamic } from '../../src/runtime/closure/elf.ts'
import { type Agent, resolveAgent, type Surroundings } from '../../src/runtime/closure.ts'

/** A fake machine: a home and a project below a temporary directory; `/usr` is the real one. */
let base: string
let home: string
let project: string

beforeEach(() => {
  base = realpathSync(mkdtempSync(join(tmpdir(), 'ambit-closure-')))
  home = join(base, 'home')
  project = join(home, 'work/ledger')
  mkdirSync(project, { recursive: true })
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

function file(path: string, content = '', mode = 0o644): string {
  const place = path.startsWith('/') ? path : join(home, path)
  mkdirSync(dirname(place), { recursive: true })
  writeFileSync(place, content)
  chmodSync(place, mode)
  return place
}
const program = (path: string, content = '\x7fELF'): string => file(path, content, 0o755)

function link(path: string, target: string): void {
  const place = path.startsWith('/') ? path : join(home, path)
  mkdirSync(dirname(place), { recursive: true })
  symlinkSync(target, place)
}

const manifest = (path: string, name: string, version = '1.2.3', more: object = {}): string =>
  file(`${path}/package.json`, JSON.stringify({ name, version, ...more }))

function resolve(command: string, path: string[], more: Partial<Surroundings> = {}): Agent {
  const PATH = [...path.map((dir) => (dir.startsWith('/') ? dir : join(home, dir))), '/usr/bin'].join(':')
  return resolveAgent(command, {
    home,
    own: [join(base, 'ambit')],
    roots: [project],
    cwd: project,
    env: { PATH },
    cache: join(base, 'cache'),
    ...more,
  })
}

const mounts = (agent: Agent): string[] => agent.mounts.map(({ path }) => path.replace(`${home}/`, '~/'))
const refused = (code: string) => (error: unknown) => error instanceof AmbitError && error.code === code

describe('node', () => {
  test('nvm: the version directory, so that env finds its node', () => {
    const v = '.nvm/versions/node/v22.1.0'
    program(`${v}/bin/node`)
    manifest(`${v}/lib/node_modules/npm`, 'npm')
    manifest(`${v}/lib/node_modules/@openai/codex`, '@openai/codex', '0.9.0')
    program(`${v}/lib/node_modules/@openai/codex/bin/codex.js`, '#!/usr/bin/env node\n')
    link(`${v}/bin/codex`, '../lib/node_modules/@openai/codex/bin/codex.js')
    const agent = resolve('codex', [`${v}/bin`])
    assert.deepEqual(mounts(agent), [`~/${v}`])
    assert.equal(agent.name, '@openai/codex')
    assert.equal(agent.version, '0.9.0')
    assert.equal(agent.argv0, join(home, v, 'bin/codex'))
    assert.deepEqual(agent.pathDirs, [join(home, v, 'bin')])
    assert.match(agent.digest ?? '', /^[0-9a-f]{64}$/)
    assert.match(
      agent.notes.join('\n'),
      /Codex's own sandbox is switched off: Ambit's holds instead[^]*not changed: .*\/v22\.1\.0/,
    )
  })

  test('npm prefix in the home: only the package; the link is replaced by one in /run/ambit/bin', () => {
    manifest('.npm-global/lib/node_modules/agent', 'agent')
    program('.npm-global/lib/node_modules/agent/cli.js', '#!/usr/bin/env sh\n')
    link('.npm-global/bin/agent', '../lib/node_modules/agent/cli.js')
    const agent = resolve('agent', ['.npm-global/bin'])
    assert.deepEqual(mounts(agent), ['~/.npm-global/lib/node_modules/agent'])
    assert.equal(agent.argv0, '/run/ambit/bin/agent')
    assert.deepEqual(agent.links[0], {
      name: 'agent',
      target: join(home, '.npm-global/lib/node_modules/agent/cli.js'),
    })
  })

  test('hoisted dependencies (npx cache, local prefix): the whole node_modules; the digest covers what resolves', () => {
    const m = '.npm/_npx/abc/node_modules'
    file(`${m}/.package-lock.json`, '{}')
    manifest(`${m}/agent`, 'agent', '2.0.0', { dependencies: { dep: '1' } })
    program(`${m}/agent/cli.js`, '#!/usr/bin/env sh\n')
    manifest(`${m}/dep`, 'dep')
    file(`${m}/dep/index.js`, '1')
    manifest(`${m}/other`, 'other')
    link(`${m}/.bin/agent`, '../agent/cli.js')
    const first = resolve('agent', [`${m}/.bin`])
    assert.deepEqual(mounts(first), [`~/${m}`])
    file(`${m}/other/index.js`, 'unrelated')
    assert.equal(resolve('agent', [`${m}/.bin`]).digest, first.digest)
    file(`${m}/dep/index.js`, '2')
    assert.notEqual(resolve('agent', [`${m}/.bin`]).digest, first.digest)
  })

  test('pnpm store: the directory that holds .pnpm', () => {
    const g = '.local/share/pnpm/global/5/node_modules'
    manifest(`${g}/.pnpm/agent@1/node_modules/agent`, 'agent')
    program(`${g}/.pnpm/agent@1/node_modules/agent/cli.js`, '#!/usr/bin/env sh\n')
    link('bin-pnpm/agent', join(home, g, '.pnpm/agent@1/node_modules/agent/cli.js'))
    assert.deepEqual(mounts(resolve('agent', ['bin-pnpm'])), [`~/${g}`])
  })

  test('volta: the shim stands for the package that its notes name', () => {
    program('.volta/bin/volta-shim')
    link('.volta/bin/agent', 'volta-shim')
    file('.volta/tools/user/bins/agent.json', JSON.stringify({ package: '@x/agent' }))
    const at = '.volta/tools/image/packages/@x/agent'
    manifest(`${at}/lib/node_modules/@x/agent`, '@x/agent')
    program(`${at}/lib/node_modules/@x/agent/cli.js`, '#!/usr/bin/env sh\n')
    link(`${at}/bin/agent`, '../lib/node_modules/@x/agent/cli.js')
    const agent = resolve('agent', ['.volta/bin'])
    assert.equal(agent.name, '@x/agent')
    assert.deepEqual(mounts(agent), [`~/${at}/lib/node_modules/@x/agent`])
  })

  test('an interpreter that is not installed is named', () => {
    program('tools/agent', '#!/usr/bin/env no-such-runtime\n')
    assert.throws(
      () => resolve('agent', ['tools']),
      (error) => refused('ERR_COMMAND_NOT_FOUND')(error) && /no-such-runtime/.test(String(error)),
    )
  })
})

describe('python', () => {
  function pyenv(version: string): void {
    program(`.pyenv/versions/${version}/bin/python${version.slice(0, 4)}`)
    link(`.pyenv/versions/${version}/bin/python3`, `python${version.slice(0, 4)}`)
    mkdirSync(join(home, `.pyenv/versions/${version}/lib/python${version.slice(0, 4)}/site-packages`), {
      recursive: true,
    })
  }

  test('pyenv: the shim gives way to the version of .python-version, then of the global file', () => {
    pyenv('3.11.7')
    pyenv('3.12.1')
    program('.pyenv/shims/python3', '#!/usr/bin/env bash\nexec pyenv exec "$@"\n')
    file('.pyenv/version', '3.11.7\n')
    assert.deepEqual(mounts(resolve('python3', ['.pyenv/shims'])), ['~/.pyenv/versions/3.11.7'])
    file(join(project, '.python-version'), '3.12\n')
    assert.deepEqual(mounts(resolve('python3', ['.pyenv/shims'])), ['~/.pyenv/versions/3.12.1'])
  })

  test('rustup: the proxy gives way to the toolchain that it would choose', () => {
    program('.cargo/bin/rustup')
    link('.cargo/bin/cargo', 'rustup')
    for (const name of ['stable-x86_64-unknown-linux-gnu', '1.80.0-x86_64-unknown-linux-gnu']) {
      program(`.rustup/toolchains/${name}/bin/cargo`)
      mkdirSync(join(home, `.rustup/toolchains/${name}/lib`), { recursive: true })
    }
    file('.rustup/settings.toml', 'version = "12"\ndefault_toolchain = "stable-x86_64-unknown-linux-gnu"\n')
    const chosen = (): string[] => mounts(resolve('cargo', ['.cargo/bin']))
    assert.deepEqual(chosen(), ['~/.rustup/toolchains/stable-x86_64-unknown-linux-gnu'])
    file(join(project, 'rust-toolchain.toml'), '[toolchain]\nchannel = "1.80.0"\n')
    assert.deepEqual(chosen(), ['~/.rustup/toolchains/1.80.0-x86_64-unknown-linux-gnu'])
    file(join(project, 'rust-toolchain.toml'), '[toolchain]\nchannel = "../../.ssh"\n')
    assert.deepEqual(chosen(), ['~/.rustup/toolchains/stable-x86_64-unknown-linux-gnu'])
  })

  test('pyenv: a version file that climbs is no version', () => {
    program('.pyenv/versions/3.11.7/bin/other')
    program('.pyenv/shims/agent', '#!/bin/sh\n')
    program('evil/bin/agent')
    file('.pyenv/version', '../../evil\n')
    assert.throws(() => resolve('agent', ['.pyenv/shims']), refused('ERR_COMMAND_NOT_FOUND'))
  })

  test('pipx: the environment and its base interpreter', () => {
    pyenv('3.12.1')
    const venv = '.local/share/pipx/venvs/aider'
    file(`${venv}/pyvenv.cfg`, `home = ${home}/.pyenv/versions/3.12.1/bin\n`)
    link(`${venv}/bin/python`, join(home, '.pyenv/versions/3.12.1/bin/python3.12'))
    program(`${venv}/bin/aider`, `#!${home}/${venv}/bin/python\n`)
    file(
      `${venv}/lib/python3.12/site-packages/aider-0.8.dist-info/entry_points.txt`,
      '[console_scripts]\naider = aider.main:main\n',
    )
    file(
      `${venv}/lib/python3.12/site-packages/aider-0.8.dist-info/METADATA`,
      'Metadata-Version: 2.1\nName: aider-chat\nVersion: 0.8\n',
    )
    link('.local/bin/aider', join(home, venv, 'bin/aider'))
    const agent = resolve('aider', ['.local/bin'])
    assert.equal(agent.name, 'aider-chat')
    assert.equal(agent.version, '0.8')
    assert.deepEqual(mounts(agent), ['~/.local/share/pipx/venvs/aider', '~/.pyenv/versions/3.12.1'])
  })

  test('a venv interpreter is started by its link: its real path would lose the environment', () => {
    pyenv('3.12.1')
    file('envs/x/pyvenv.cfg', 'home = somewhere\n')
    link('envs/x/bin/python', join(home, '.pyenv/versions/3.12.1/bin/python3.12'))
    const agent = resolve('python', ['envs/x/bin'])
    assert.equal(agent.argv0, join(home, 'envs/x/bin/python'))
    assert.deepEqual(mounts(agent), ['~/.pyenv/versions/3.12.1', '~/envs/x'])
  })

  test('pip --user: the script and the site-packages that own it', () => {
    program('.local/bin/agent', '#!/usr/bin/python3\n')
    file('.local/lib/python3.11/site-packages/agent-1.dist-info/RECORD', '../../../bin/agent,sha256=x,1\n')
    file('.local/lib/python3.11/site-packages/agent-1.dist-info/METADATA', 'Name: agent\nVersion: 1\n')
    file('.local/share/keyrings/login.keyring', 'secret')
    assert.deepEqual(mounts(resolve('agent', ['.local/bin'])), [
      '~/.local/bin/agent',
      '~/.local/lib/python3.11/site-packages',
    ])
  })
})

describe('other installations', () => {
  test('Homebrew: the prefix without var', () => {
    const brew = join(base, '.linuxbrew')
    program(join(brew, 'Cellar/tool/1.4/bin/tool'))
    link(join(brew, 'bin/tool'), '../Cellar/tool/1.4/bin/tool')
    mkdirSync(join(brew, 'opt'))
    mkdirSync(join(brew, 'var/postgres'), { recursive: true })
    const agent = resolve('tool', [join(brew, 'bin')])
    assert.deepEqual([agent.name, agent.version], ['tool', '1.4'])
    assert.deepEqual(
      mounts(agent),
      ['Cellar', 'bin', 'opt'].map((part) => join(brew, part)),
    )
    assert.equal(agent.argv0, join(brew, 'bin/tool'))
  })

  test('a static binary in ~/.local/bin: that file alone', () => {
    program('.local/bin/agent')
    program('.local/bin/other')
    mkdirSync(join(home, '.local/share/keyrings'), { recursive: true })
    const agent = resolve('agent', ['.local/bin'])
    assert.deepEqual(mounts(agent), ['~/.local/bin/agent'])
    assert.equal(agent.argv0, join(home, '.local/bin/agent'))
  })

  test('libraries beside a program, by its run path, and theirs', {
    skip: !existsSync('/usr/bin/cc') && 'no C compiler here',
  }, () => {
    const cc = (...args: string[]): void => void execFileSync('cc', args, { cwd: home })
    for (const dir of ['.local/bin', '.local/lib', '.local/secret'])
      mkdirSync(join(home, dir), { recursive: true })
    file('b.c', 'int b(void) { return 0; }')
    file('a.c', 'int b(void); int a(void) { return b(); }')
    file('m.c', 'int a(void); int main(void) { return a(); }')
    cc('-shared', '-fPIC', '-o', '.local/lib/libb.so', 'b.c')
    cc('-shared', '-fPIC', '-o', '.local/lib/liba.so', 'a.c', '-L.local/lib', '-lb', '-Wl,-rpath,$ORIGIN')
    cc('-o', '.local/bin/tool', 'm.c', '-L.local/lib', '-la', '-lb', '-Wl,-rpath,$ORIGIN/../lib')
    assert.deepEqual(mounts(resolve('tool', ['.local/bin'])), [
      '~/.local/bin/tool',
      '~/.local/lib/liba.so',
      '~/.local/lib/libb.so',
    ])
  })

  test('a malformed ELF file has no libraries', () => {
    const path = program('.local/bin/odd', `\x7fELF\x02\x01${'\xff'.repeat(200)}`)
    assert.deepEqual(readDynamic(path), { needed: [], paths: [] })
    assert.deepEqual(mounts(resolve('odd', ['.local/bin'])), ['~/.local/bin/odd'])
  })

  test('a system program needs no mount and keeps the name it was called by', () => {
    const agent = resolve('unxz', [])
    assert.deepEqual(agent.mounts, [])
    assert.equal(agent.argv0, '/usr/bin/unxz')
    assert.match(agent.executable, /\/xz$/)
  })

  test('a relative PATH entry is not searched', () => {
    program(join(project, 'agent'))
    assert.throws(
      () => resolve('agent', [], { env: { PATH: '.:/usr/bin' } }),
      refused('ERR_COMMAND_NOT_FOUND'),
    )
    assert.equal(resolve('./agent', []).executable, join(project, 'agent'))
  })
})

describe('a closure never widens the view', () => {
  test('a tree that would be the home, or holds it, shrinks to the program', () => {
    program('bin/agent')
    mkdirSync(join(home, 'lib'))
    assert.deepEqual(mounts(resolve('agent', ['bin'])), ['~/bin/agent'])
    manifest('.', 'whole-home')
    assert.deepEqual(mounts(resolve('agent', ['bin'])), ['~/bin/agent'])
  })

  test("a tree with the project or with Ambit's state in it shrinks to the program", () => {
    manifest('work', 'work')
    program('work/agent')
    assert.deepEqual(mounts(resolve('agent', ['work'])), ['~/work/agent'])
    program(join(base, 'bin/tool'))
    mkdirSync(join(base, 'lib'))
    assert.deepEqual(mounts(resolve('tool', [join(base, 'bin')])), [join(base, 'bin/tool')])
  })

  test('a home behind a link is the home by both names', () => {
    symlinkSync(home, join(base, 'alias'))
    manifest('.', 'whole-home')
    program('tool')
    const agent = resolve('tool', [home], { home: join(base, 'alias') })
    assert.deepEqual(mounts(agent), ['~/tool'])
    program('.ssh/tool2')
    assert.throws(
      () => resolve('tool2', ['.ssh'], { home: join(base, 'alias') }),
      refused('ERR_PATH_FORBIDDEN'),
    )
  })

  for (const secret of ['.ssh', '.aws', '.gnupg', '.config/gcloud']) {
    test(`a program in ~/${secret} is refused`, () => {
      program(`${secret}/bin/agent`)
      assert.throws(() => resolve('agent', [`${secret}/bin`]), refused('ERR_PATH_FORBIDDEN'))
    })
  }

  test('a link on PATH into a credential directory is refused', () => {
    program('.ssh/id_ed25519', 'key')
    link('tools/agent', join(home, '.ssh/id_ed25519'))
    assert.throws(() => resolve('agent', ['tools']), refused('ERR_PATH_FORBIDDEN'))
  })

  test('a script in the project cannot name a private file as its interpreter', () => {
    program('private/diary', 'dear diary')
    program(join(project, 'run.sh'), `#!${home}/private/diary\n`)
    assert.throws(() => resolve('./run.sh', []), refused('ERR_PATH_FORBIDDEN'))
    program(join(project, 'ok.sh'), '#!/bin/sh\n')
    assert.deepEqual(mounts(resolve('./ok.sh', [])), [])
  })

  test('a link in the project cannot lead to a private file or prefix', () => {
    program('private/bin/tool')
    mkdirSync(join(home, 'private/lib'))
    link(join(project, 'tool'), join(home, 'private/bin/tool'))
    assert.throws(() => resolve('./tool', []), refused('ERR_PATH_FORBIDDEN'))
  })

  test('a prefix in which a program listens on a socket shrinks to the program', async () => {
    program('opt/tool/bin/tool')
    mkdirSync(join(home, 'opt/tool/lib'))
    assert.deepEqual(mounts(resolve('tool', ['opt/tool/bin'])), ['~/opt/tool'])
    const server = createServer().listen(join(home, 'opt/tool/lib/socket'))
    await once(server, 'listening')
    assert.deepEqual(mounts(resolve('tool', ['opt/tool/bin'])), ['~/opt/tool/bin/tool'])
    server.close()
  })

  test('nor can one that a link outside leads to, by file or by directory', () => {
    program('private/diary')
    link(join(project, 'bin/tool'), join(home, 'private/diary'))
    link('tools/tool', join(project, 'bin/tool'))
    assert.throws(() => resolve('tool', ['tools']), refused('ERR_PATH_FORBIDDEN'))
    link('more', join(project, 'bin'))
    assert.throws(() => resolve('tool', ['more']), refused('ERR_PATH_FORBIDDEN'))
    link(join(project, 'far'), join(home, 'private'))
    link('last/diary', join(project, 'far/diary'))
    assert.throws(() => resolve('diary', ['last']), refused('ERR_PATH_FORBIDDEN'))
    link('direct/diary', join(home, 'private/diary'))
    assert.deepEqual(mounts(resolve('diary', ['direct'])), ['~/private/diary'])
  })

  test('a link in the project cannot lead to a private package', () => {
    manifest('private/notes', 'notes')
    program('private/notes/cli.js', '#!/bin/sh\n')
    link(join(project, 'tool'), join(home, 'private/notes/cli.js'))
    assert.throws(() => resolve('./tool', []), refused('ERR_PATH_FORBIDDEN'))
    link('tools/tool', join(home, 'private/notes/cli.js'))
    assert.deepEqual(mounts(resolve('tool', ['tools'])), ['~/private/notes'])
  })

  test('a venv in the project leads to its base interpreter', () => {
    program('.pyenv/versions/3.12.1/bin/python3.12')
    mkdirSync(join(home, '.pyenv/versions/3.12.1/lib/python3.12'), { recursive: true })
    file(join(project, '.venv/pyvenv.cfg'), '')
    link(join(project, '.venv/bin/python'), join(home, '.pyenv/versions/3.12.1/bin/python3.12'))
    program(join(project, '.venv/bin/tool'), `#!${project}/.venv/bin/python\n`)
    const agent = resolve('.venv/bin/tool', [])
    assert.deepEqual(mounts(agent), ['~/.pyenv/versions/3.12.1'])
    assert.equal(agent.argv0, join(project, '.venv/bin/tool'))
  })

  test('an interpreter by name is not looked up in the project', () => {
    program(join(project, 'bin/sh'), '\x7fELF')
    program('tools/agent', '#!/usr/bin/env sh\n')
    const agent = resolve('agent', [join(project, 'bin'), 'tools'])
    assert.ok(agent.links.every(({ target }) => !target.startsWith(project)))
  })

  test('a package in the project is left to the view', () => {
    manifest(join(project, 'node_modules/agent'), 'agent')
    program(join(project, 'node_modules/agent/cli.js'), '#!/bin/sh\n')
    link(join(project, 'node_modules/.bin/agent'), '../agent/cli.js')
    const agent = resolve('./node_modules/.bin/agent', [])
    assert.deepEqual(agent.mounts, [])
    assert.equal(agent.digest, null)
  })
})

test('a digest changes with content and mode, not with where it was measured before', () => {
  const path = program('.local/bin/agent', '\x7fELF one')
  const first = resolve('agent', ['.local/bin']).digest
  assert.equal(resolve('agent', ['.local/bin']).digest, first)
  writeFileSync(path, '\x7fELF two')
  const second = resolve('agent', ['.local/bin']).digest
  assert.notEqual(second, first)
  chmodSync(path, 0o700)
  assert.notEqual(resolve('agent', ['.local/bin']).digest, second)
  chmodSync(path, 0o755)
  writeFileSync(path, '\x7fELF one')
  assert.equal(resolve('agent', ['.local/bin']).digest, first)
})

test('a command that does not exist ends with 127', () => {
  assert.throws(
    () => resolve('no-such-agent', []),
    (error) => refused('ERR_COMMAND_NOT_FOUND')(error) && (error as AmbitError).exitCode === 127,
  )
})
