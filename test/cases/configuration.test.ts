/** P-12: agent and editor configuration is accepted by content, not by folder. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { rmSync } from 'node:fs'
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
