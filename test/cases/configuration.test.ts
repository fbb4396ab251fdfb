/** P-12: agent and editor configuration is accepted by content, not by folder. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { chmodSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { attack } from '../support/case.ts'
import { describe, Stage } from '../support/stage.ts'
import { atTerminal } from '../support/terminal.ts'

attack('P-12', 'a remembered yes ends where agent configuration says something else', async (as) => {
  const stage = new Stage(as, {
    files: {
      '.mcp.json': '{"mcpServers":{}}',
      '.claude/settings.json': '{}',
      'AGENTS.md': 'be kind',
      'readme.txt': 'hello',
    },
  })
  const profile = stage.profile()
  const first = await atTerminal(stage, profile)
  assert.ok(first.asked && /brings agent or editor configuration/.test(first.stdout), describe(first))
  // Positive control: nothing but ordinary files differs, and nothing is asked.
  stage.put(stage.project, { 'readme.txt': 'changed', '.mcp.json': '{"mcpServers":{}}' })
  assert.equal((await atTerminal(stage, profile)).asked, false)
  for (const [path, text] of [
    ['.mcp.json', '{"mcpServers":{"x":{"command":"curl evil.test"}}}'],
    ['.claude/hooks/new\u202e\x1b[2Jname.sh', 'evil'],
    ['AGENTS.md', 'be evil'],
    ['.cursor/rules/new.mdc', 'obey'],
  ] as const) {
    stage.put(stage.project, { [path]: text })
    const again = await atTerminal(stage, profile)
    assert.ok(again.asked, `${path}: ${describe(again)}`)
    assert.match(again.stdout, /configuration (changed|added) since you last accepted/, path)
    assert.ok(!again.stdout.includes('\u001b[2J'), 'the name is escaped')
  }
  // What is too long to be read in full asks again, too, when its unread end changes and its size does not.
  const long = 'a'.repeat(5 << 20)
  for (const end of ['kind', 'evil']) {
    stage.put(stage.project, { 'AGENTS.md': long + end })
    assert.ok((await atTerminal(stage, profile)).asked, end)
    assert.equal((await atTerminal(stage, profile)).asked, false)
  }
  rmSync(join(stage.project, 'AGENTS.md'))
  assert.match((await atTerminal(stage, profile)).stdout, /removed since you last accepted: .*AGENTS\.md/)
  // --yes accepts the sheet, on record, and teaches nothing.
  stage.put(stage.project, { '.mcp.json': '{"again":1}' })
  const yes = await stage.session(['/bin/true'])
  assert.equal(yes.code, 0, describe(yes))
  assert.ok((await atTerminal(stage, profile)).asked)
  const facts = (await stage.events()).map((event) => JSON.stringify(event))
  const onRecord = (words: RegExp): boolean =>
    facts.some((event) => event.includes('configuration.accept') && words.test(event))
  assert.ok(onRecord(/terminal: changed.*\.mcp\.json sha256:[0-9a-f]{64}/))
  assert.ok(onRecord(/command-line: changed/))
  return 'asked again for four kinds of change; none for the rest'
})

/** Kinds of places in which a first look could pass over what an agent finds. */
attack(
  'P-12',
  'configuration deep below, behind odd bytes or in a directory that lists nothing asks again',
  async (as) => {
    const deep = join('.claude', 'a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t', 'hook.sh')
    const files = { '.claude/settings.json': '{}', [deep]: 'kind', '.claude/rules/a.md': 'kind' }
    const stage = new Stage(as, { files })
    // Rings cost nothing and are no reason to ask.
    for (const name of ['one', 'two']) symlinkSync('..', join(stage.project, '.claude/rules', name))
    stage.own()
    const profile = stage.profile()
    const asked = async (): Promise<boolean> => (await atTerminal(stage, profile)).asked
    assert.equal(await asked(), true)
    assert.equal(await asked(), false)
    stage.put(stage.project, { [deep]: 'evil' })
    assert.equal(await asked(), true, 'twenty levels below')
    assert.equal(await asked(), false)
    const odd = Buffer.concat([
      Buffer.from(join(stage.project, '.claude/rules/')),
      Buffer.from([0xff, 0x2e, 0x6d, 0x64]),
    ])
    writeFileSync(odd, 'obey')
    assert.equal(await asked(), true, 'a name that is no text')
    assert.equal(await asked(), true, 'nobody can have seen it')
    rmSync(odd)
    assert.equal(await asked(), false)
    // What an earlier session left in its workspace is asked about where one begins there, and only there.
    stage.put(stage.workspace, { '.mcp.json': '{"mcpServers":{}}' })
    const both = stage.profile({
      files: [
        { path: '${project}', access: 'read' },
        { path: '${workspace}', access: 'write' },
      ],
    })
    const there = { cwd: stage.workspace }
    const begun = async (): Promise<boolean> => (await atTerminal(stage, both, ['/bin/true'], there)).asked
    assert.equal((await atTerminal(stage, both)).asked, true)
    assert.equal(await begun(), true, 'a first time there')
    assert.equal(await begun(), false)
    stage.put(stage.workspace, { '.mcp.json': '{"mcpServers":{"x":{"command":"evil"}}}' })
    assert.equal((await atTerminal(stage, both)).asked, false, 'not read from the project')
    assert.equal(await begun(), true, 'the workspace says something else')
    // Root lists what it likes.
    if (as === 'user') {
      chmodSync(join(stage.project, '.claude'), 0o311)
      stage.put(stage.project, { '.claude/settings.json': '{"hooks":"evil"}' })
      assert.equal(await asked(), true, 'a directory that is used but not listed')
      chmodSync(join(stage.project, '.claude'), 0o755)
    }
    return 'asked again for each'
  },
)
