import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { gitIdentity, userSection } from '../../src/runtime/git-identity.ts'
import { type HomeRequest, takeHome } from '../../src/runtime/home.ts'
import { sessionOwner } from '../../src/runtime/owner.ts'

let base: string
beforeEach(() => {
  base = realpathSync(mkdtempSync(join(tmpdir(), 'ambit-home-')))
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

const me = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
const request = (change: Partial<HomeRequest> = {}): HomeRequest => ({
  dir: join(base, 'homes'),
  agent: 'codex',
  project: '/p',
  owner: me,
  mountpoints: [],
  seeds: () => ({}),
  ...change,
})

/** Takes the home in another process, which ends: the lock is free again. */
function takeElsewhere(
  change: Partial<Omit<HomeRequest, 'seeds'>> = {},
  seeds: Record<string, string> = {},
): string {
  const script = `import { takeHome } from ${JSON.stringify(join(import.meta.dirname, '../../src/runtime/home.ts'))}; console.log(takeHome({ ...${JSON.stringify(request(change))}, seeds: () => (${JSON.stringify(seeds)}) }).path)`
  return execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' }).trim()
}

test('a home is private, keeps what was in it, and is another one for another agent or project', () => {
  const path = takeElsewhere()
  assert.equal(statSync(path).mode & 0o777, 0o700)
  writeFileSync(join(path, 'history'), 'kept')
  assert.equal(takeElsewhere(), path)
  assert.equal(readFileSync(join(path, 'history'), 'utf8'), 'kept')
  assert.notEqual(takeElsewhere({ project: '/q' }), path)
  assert.notEqual(takeElsewhere({ agent: 'claude' }), path)
})

test('two sessions at a time do not share a home', () => {
  const first = takeHome(request())
  const second = takeHome(request())
  assert.notEqual(first.path, second.path)
  assert.ok(takeElsewhere() !== first.path)
})

test("seeds are written once: later the file is the agent's", () => {
  const path = takeElsewhere({}, { '.claude.json': '{}' })
  assert.equal(readFileSync(join(path, '.claude.json'), 'utf8'), '{}')
  rmSync(join(path, '.claude.json'))
  symlinkSync(join(base, 'victim'), join(path, '.claude.json'))
  takeElsewhere({}, { '.claude.json': '{}' })
  assert.ok(!existsSync(join(base, 'victim')))
})

test('a link that the agent left where a mount belongs is moved aside, never followed', () => {
  const mountpoints = [
    { path: 'work/ledger', file: false },
    { path: '.local/bin/tool', file: true },
  ]
  const path = takeElsewhere({ mountpoints })
  assert.ok(statSync(join(path, 'work/ledger')).isDirectory())
  assert.ok(statSync(join(path, '.local/bin/tool')).isFile())
  mkdirSync(join(base, 'outside'))
  writeFileSync(join(base, 'outside/file'), 'safe')
  rmSync(join(path, 'work'), { recursive: true })
  symlinkSync(join(base, 'outside'), join(path, 'work'))
  rmSync(join(path, '.local/bin/tool'))
  symlinkSync(join(base, 'outside/file'), join(path, '.local/bin/tool'))
  takeElsewhere({ mountpoints })
  assert.deepEqual(readdirSync(join(base, 'outside')), ['file'])
  assert.equal(readFileSync(join(base, 'outside/file'), 'utf8'), 'safe')
  assert.ok(lstatSync(join(path, 'work/ledger')).isDirectory())
  assert.ok(lstatSync(join(path, '.local/bin/tool')).isFile())
})

test("an ordinary user's agent runs as that user", () => {
  const ids = { uid: 1001, gid: 1001 }
  assert.deepEqual(sessionOwner(ids, 'codex', '/p'), { host: ids, inside: ids })
})

test("root's agent never runs as root, and each (agent, project) has a host uid of its own", () => {
  const root = { uid: 0, gid: 0 }
  const one = sessionOwner(root, 'codex', '/p', '0 0 4294967295')
  assert.ok(one.host.uid >= 0x7000_0000 && one.host.gid === one.host.uid)
  assert.deepEqual(one.inside, { uid: 1000, gid: 1000 })
  assert.deepEqual(sessionOwner(root, 'codex', '/p', '0 0 4294967295'), one)
  assert.notEqual(sessionOwner(root, 'codex', '/q', '0 0 4294967295').host.uid, one.host.uid)
  const contained = sessionOwner(root, 'codex', '/p', '         0     100000      65536').host.uid
  assert.ok(contained >= 61_184 && contained <= 65_519)
})

test('root hands a new home to its owner', { skip: me.uid !== 0 }, () => {
  const owner = { uid: 1_879_048_200, gid: 1_879_048_200 }
  const mountpoints = [{ path: 'work', file: false }]
  const path = takeElsewhere({ owner, mountpoints }, { '.config/x.json': '{}' })
  for (const name of ['', '.config', '.config/x.json', 'work'])
    assert.equal(statSync(join(path, name)).uid, owner.uid, name)
})

test('of the git configuration only the name and address go in', () => {
  writeFileSync(
    join(base, '.gitconfig'),
    '[user]\n\tname = Ada Lovelace\n\temail = ada@example.com\n\tsigningkey = KEY\n[credential]\n\thelper = store\n[url "https://tok@x/"]\n\tinsteadOf = y\n',
  )
  assert.deepEqual(gitIdentity(base), {
    '.gitconfig': '[user]\n\tname = Ada Lovelace\n\temail = ada@example.com\n',
  })
  assert.deepEqual(gitIdentity(join(base, 'nobody')), {})
  assert.deepEqual(userSection('[include]\n name = x\n[user]\n name = "a\\n[core]"\n'), [])
})
