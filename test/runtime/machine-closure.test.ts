/** A machine has its image's system: what of a closure lies in the host's comes along, where the image has none. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Agent } from '../../src/runtime/closure.ts'
import { inMachine } from '../../src/runtime/closure/machine.ts'

const BIN = '/run/ambit/bin'
const IMAGE = { '/usr/bin/python3.11': 'aa', '/usr/bin/dash': 'bb', '/usr/bin/git-shell': 'cc' }

function agentWith(change: Partial<Agent>): Agent {
  return {
    name: 'codex',
    version: null,
    executable: '/home/a/codex/bin/codex.js',
    argv0: '/home/a/codex/bin/codex.js',
    mounts: [{ path: '/home/a/codex' }],
    links: [{ name: 'codex', target: '/home/a/codex/bin/codex.js' }],
    system: [],
    pathDirs: [],
    digest: null,
    notes: [],
    ...change,
  }
}

const program = (seen: string, real = seen, trees: readonly string[] = []) => ({ seen, real, trees })

test('an interpreter of the host comes along to its own place, and is found by its name', () => {
  // Any file does: of no ELF file nothing more is needed.
  const agent = agentWith({ system: [program('/usr/bin/env'), program('/usr/bin/node', '/usr/bin/env')] })
  const shown = inMachine(agent, { '/usr/bin/env': 'dd' }, BIN)
  assert.equal(shown, agent, 'control: the image has that file')
  const { mounts, links, argv0 } = inMachine(agentWith({ system: [program('/usr/bin/env')] }), {}, BIN)
  assert.deepEqual(mounts, [{ path: '/home/a/codex' }, { path: '/usr/bin/env' }])
  assert.deepEqual(links.at(-1), { name: 'env', target: '/usr/bin/env' })
  assert.equal(argv0, '/home/a/codex/bin/codex.js')
})

test("the image's own program is taken, also where its name leads to another version", () => {
  const agent = agentWith({
    system: [program('/usr/bin/python3', '/usr/bin/python3.12'), program('/bin/sh', '/usr/bin/dash')],
  })
  assert.equal(inMachine(agent, IMAGE, BIN), agent)
  const git = inMachine(agentWith({ system: [program('/usr/bin/git', '/usr/bin/env')] }), IMAGE, BIN)
  assert.deepEqual(
    git.links.at(-1),
    { name: 'git', target: '/usr/bin/env' },
    'git-shell is no version of git',
  )
})

test('an agent that lies in the system comes with its package and is started by its link', () => {
  const tree = '/usr/lib/node_modules/@openai/codex'
  const executable = '/usr/share/common-licenses/GPL-3'
  const agent = agentWith({
    executable,
    argv0: '/usr/bin/codex',
    mounts: [],
    system: [program('/usr/bin/codex', executable, [tree])],
  })
  const shown = inMachine(agent, IMAGE, BIN)
  assert.deepEqual(
    shown.mounts.map(({ path }) => path),
    [tree, executable],
  )
  assert.equal(shown.argv0, `${BIN}/codex`)
})
