/** what is small and means much, or never ends, where Ambit reads it on the host: bounded time and memory. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after } from 'node:test'
import { attack } from '../support/case.ts'
import { withPeak } from '../support/peak.ts'
import { describe, type Ran, Stage } from '../support/stage.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

/** On a busy machine an ordinary start takes seconds; what is not bounded takes minutes, or for ever. */
const MOST_MS = 25_000
const MOST_MIB = 600

/** The worst of several runs. */
class Worst {
  ms = 0
  mib = 0

  async of(stage: Stage, name: string, run: () => Promise<Ran>): Promise<Ran> {
    const { value: ran, mib } = await withPeak(stage.root, run)
    assert.equal(ran.signal, null, `${name}: did not end\n${describe(ran)}`)
    assert.doesNotMatch(ran.stderr, /ERR_INTERNAL|RangeError|FATAL|heap/, name)
    assert.ok(mib < MOST_MIB, `${name}: ${mib} MiB`)
    this.ms = Math.max(this.ms, ran.ms)
    this.mib = Math.max(this.mib, mib)
    return ran
  }

  get said(): string {
    return `${(this.ms / 1000).toFixed(1)} s and ${this.mib} MiB at most`
  }
}

const DEEP = 1_000_000
/** Aliases of aliases: 9 to the power of 9 when they are followed. */
const LAUGHS = Array.from(
  { length: 9 },
  (_, n) => `a${n}: &a${n} [${Array.from({ length: 9 }, () => (n ? `*a${n - 1}` : 'x')).join(', ')}]`,
).join('\n')

const profileHiding = (glob: string): string =>
  JSON.stringify({
    apiVersion: 'ambit/v1',
    kind: 'Profile',
    metadata: { name: 'case' },
    spec: { files: [{ path: '${project}', access: 'write' }], hide: [glob] },
  })

/** As long as a pattern may be; a matcher that tries every way has more of them than there are atoms. */
const BACKTRACKING = `${'*a'.repeat(250)}b`

/** Each with whether it is a profile after all. */
const PROFILES: Readonly<Record<string, readonly [text: string, fits: boolean]>> = {
  'an ordinary one': [profileHiding('**/*.pem'), true],
  'a glob that backtracks': [profileHiding(BACKTRACKING), true],
  'a list a million deep': [`${'['.repeat(DEEP)}${']'.repeat(DEEP)}`, false],
  'a list 20,000 deep': [`${'['.repeat(20_000)}${']'.repeat(20_000)}`, false],
  'a map 20,000 deep': ['{a: '.repeat(20_000), false],
  'aliases of aliases': [LAUGHS, false],
}

attack('R-08', 'reads a profile that grows or nests without end in bounded time and memory', async (as) => {
  const stage = new Stage(as, { files: { [`${'a'.repeat(200)}c`]: 'long' } })
  const worst = new Worst()
  for (const [name, [text, fits]] of Object.entries(PROFILES)) {
    const file = join(stage.root, 'bomb.yaml')
    writeFileSync(file, text, { mode: 0o644 })
    const argv = ['explain', '--profile', file, '--project', stage.project]
    const ran = await worst.of(stage, name, () => stage.ambit(argv, { timeout: MOST_MS }))
    assert.equal(ran.code, fits ? 0 : 125, `${name}: ${describe(ran)}`)
    if (!fits) assert.match(ran.stderr, /ERR_PROFILE_INVALID/, name)
  }
  const inside = await worst.of(stage, 'names that backtrack', () =>
    stage.session(['/bin/ls', '-l', '.'], { spec: { hide: [BACKTRACKING] }, timeout: MOST_MS }),
  )
  assert.match(inside.stdout, /a{200}c\n/, describe(inside))
  return worst.said
})

/** Sends one frame to the daemon as the stage's user and prints what comes back, or `closed`. */
const FRAME = `
const [path, kind] = process.argv.slice(1)
const deep = (open, n) => open.repeat(n)
const body = { small: JSON.stringify({ id: 1, op: 'hello', args: { v: 1, version: 'x' } }),
  nested: deep('[', 1000000), args: '{"id":1,"op":"hello","args":' + deep('{"a":', 150000),
  whole: '{"id":1,"op":"hello","args":{"v":1,"version":' + deep('[', 400000) + deep(']', 400000) + '}}',
  long: 'x'.repeat(2 << 20) }[kind]
const head = Buffer.alloc(4)
head.writeUInt32LE(body.length)
const socket = require('node:net').connect(path, () => socket.write(Buffer.concat([head, Buffer.from(body)])))
socket.on('error', () => undefined)
socket.once('data', (data) => (console.log('answered', data.subarray(4).toString()), socket.destroy()))
socket.once('close', () => console.log('closed'))
`

attack('R-08', 'ends a link to the daemon that nests without end, and serves the others', async (as) => {
  const stage = new Stage(as, { files: { plain: 'plain' } })
  const works = async (): Promise<void> => {
    const ran = await stage.session(['/bin/echo', 'it-ran'])
    assert.equal(ran.stdout, 'it-ran\n', describe(ran))
  }
  await works()
  const worst = new Worst()
  const socket = join(stage.ambitHome, 'run/ambitd.sock')
  const send = (kind: string): Promise<Ran> =>
    worst.of(stage, kind, () => stage.command([stage.product.node, '-e', FRAME, socket, kind]))
  assert.match((await send('small')).stdout, /answered .*"version"/, 'control: an ordinary greeting')
  for (const kind of ['nested', 'args', 'whole', 'long'])
    assert.equal((await send(kind)).stdout, 'closed\n', kind)
  await works()
  return worst.said
})

/** What an agent may leave in a workspace, by directory. Each is read when somebody starts a session there. */
const LEAVE = String.raw`
const fs = require('node:fs'), { execFileSync: run } = require('node:child_process')
const put = (path, text, mode = 0o644) => fs.writeFileSync(path, text, { mode })
process.chdir(process.env.AMBIT_WORKSPACE)
fs.mkdirSync('good/.claude', { recursive: true })
run('git', ['init', '-q', 'good'])
put('good/.mcp.json', '{}')
put('good/package.json', '{"name":"good","version":"1"}')
put('good/tool', '#!/bin/sh\n', 0o755)
const leave = (name, fill) => {
  fs.cpSync('good', name, { recursive: true })
  process.chdir(name)
  fill()
  process.chdir('..')
}
const away = (...names) => names.forEach((name) => fs.rmSync(name, { recursive: true, force: true }))
leave('pipes', () => {
  away('.git', 'package.json', '.mcp.json')
  run('mkfifo', ['.git', 'package.json', '.mcp.json', '.python-version', '.claude/pipe'])
})
leave('sparse', () => {
  away('.git')
  run('truncate', ['-s', '1900M', '.git', 'package.json', '.mcp.json', '.python-version', 'CLAUDE.md'])
})
leave('deep', () => put('package.json', '['.repeat(1e6)))
leave('named', () => put('package.json', JSON.stringify({ name: 'n'.repeat(9e5), version: 'v'.repeat(9e4) })))
leave('endless', () => fs.symlinkSync('/', '.claude/everything'))
leave('large', () => run('truncate', ['-s', '4M', ...Array.from({ length: 200 }, (_, n) => '.claude/' + n)]))
leave('settings', () => fs.appendFileSync('.git/config', '[include]\n' + '\tpath = some/where/else\n'.repeat(90_000)))

// A program that says its tables are gigabytes, and one that looks for 2,000 libraries in half a million places.
const head = (entrySize, count) => {
  const elf = Buffer.alloc(64)
  elf.write('\x7fELF\x02\x01\x01', 'latin1')
  elf.writeBigUInt64LE(64n, 32)
  elf.writeUInt16LE(entrySize, 54)
  elf.writeUInt16LE(count, 56)
  return elf
}
const segment = (type, offset, size) => {
  const entry = Buffer.alloc(56)
  entry.writeUInt32LE(type, 0)
  for (const [at, value] of [[8, offset], [16, offset], [32, size]]) entry.writeBigUInt64LE(BigInt(value), at)
  return entry
}
const program = (name, ...parts) => {
  fs.mkdirSync(name)
  put(name + '/tool', Buffer.concat(parts), 0o755)
}
program('tables', head(65535, 32767))
fs.truncateSync('tables/tool', 2 ** 31 + 1)
const strings = Buffer.from(':/x'.repeat(349_525))
const tag = (kind, value) => {
  const entry = Buffer.alloc(16)
  entry.writeBigInt64LE(BigInt(kind), 0)
  entry.writeBigUInt64LE(BigInt(value), 8)
  return entry
}
const tags = [tag(5, 256 + 65536), tag(10, strings.length)]
while (tags.length < 4096) tags.push(tags.length % 2 ? tag(1, strings.length - 3) : tag(29, 0))
const start = Buffer.concat([head(56, 2), segment(1, 0, 2e6), segment(2, 256, 65536)], 256)
program('places', start, ...tags, strings, Buffer.alloc(8))
`

/** What a start in each says; the rest is an ordinary sheet. */
const REFUSED: Readonly<Record<string, readonly [code: number, words: RegExp]>> = {
  settings: [126, /cannot be protected/],
  'sparse python': [127, /no such command/],
}

attack(
  'R-08',
  'starts where an agent left pipes, holes and endless names, and asks about no more than it read',
  async (as) => {
    const stage = new Stage(as, { files: { plain: 'plain' } })
    const made = await stage.session([stage.product.node, '-e', LEAVE], {
      spec: { files: ['project', 'workspace'].map((root) => ({ path: `\${${root}}`, access: 'write' })) },
    })
    assert.equal(made.code, 0, describe(made))
    const worst = new Worst()
    const profile = stage.profile()
    // A version manager's shim, so that the directory is asked which Python it wants.
    const pyenv = join(stage.home, '.pyenv')
    stage.put(pyenv, {
      'shims/python': '#!/bin/sh\n',
      'versions/3.12.1/bin/python': '#!/bin/sh\n',
      version: '3.12.1',
    })
    await stage.command([
      'chmod',
      '+x',
      join(pyenv, 'shims/python'),
      join(pyenv, 'versions/3.12.1/bin/python'),
    ])
    const explain = (dir: string, command: string): Promise<Ran> =>
      worst.of(stage, `${dir} ${command}`, () => {
        const cwd = join(stage.workspace, dir)
        const argv = ['explain', '--profile', profile, '--project', cwd, '--', command]
        return stage.ambit(argv, { cwd, timeout: MOST_MS, env: { PATH: `${pyenv}/shims:/usr/bin:/bin` } })
      })
    for (const dir of ['good', 'pipes', 'sparse', 'deep', 'named', 'endless', 'large', 'settings'])
      for (const command of ['good', 'pipes', 'sparse'].includes(dir) ? ['./tool', 'python'] : ['./tool']) {
        const ran = await explain(dir, command)
        const [code, words] = REFUSED[`${dir} ${command}`] ?? REFUSED[dir] ?? [0, /^/]
        assert.equal(ran.code, code, `${dir}: ${describe(ran)}`)
        assert.match(ran.stderr, words)
        assert.ok(ran.stdout.length + ran.stderr.length < 200_000, `${dir}: ${ran.stdout.length} characters`)
      }
    // Programs that the session does not show as part of a root: their libraries are looked for.
    for (const program of ['tables', 'places']) {
      const path = join(stage.workspace, program, 'tool')
      const ran = await worst.of(stage, program, () =>
        stage.ambit(['explain', '--profile', profile, '--project', stage.project, '--', path], {
          timeout: MOST_MS,
        }),
      )
      assert.equal(ran.code, 0, `${program}: ${describe(ran)}`)
    }
    return worst.said
  },
)
