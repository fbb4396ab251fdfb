import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AGENT_INSTRUCTIONS } from '../../src/profile/defaults.ts'
import { isExecutableConfig } from '../../src/view/executable-config.ts'

const RUN_LATER = `
  vite.config.js a.config.cjs a.config.mjs jest.config.ts .eslintrc.cjs .babelrc.js
  .prettierrc HEAD Justfile rust-toolchain.toml .gitea/workflows/a.yml .amazonq/mcp.json
  .git/objects/info/alternates .config/fish/config.fish .vscode/tasks.json .git/hooks/pre-commit package.json Cargo.toml
  .env node_modules/a/package.json .git/config .gradle/a`
  .trim()
  .split(/\s+/)
  .concat(AGENT_INSTRUCTIONS)

const DATA = ['src/a.ts', 'README.md', '.git/HEAD', '.git/logs/HEAD', '.env.example', 'config.json']

test('a review marks whatever a profile protects or reviews by default, and more', () => {
  const marked = (path: string) => isExecutableConfig(path, 'file')
  assert.deepEqual(
    [...RUN_LATER, ...RUN_LATER.map((path) => `deep/${path}`)].filter((path) => !marked(path)),
    [],
  )
  assert.deepEqual(DATA.filter(marked), [])
})

test('thousands of very deep directories are marked, and cost next to nothing', () => {
  const path = Array<string>(4000).fill('a').join('/')
  for (let length = 1000; length < path.length; length += 2)
    assert.ok(isExecutableConfig(path.slice(0, length), 'dir'))
  assert.ok(!isExecutableConfig(path.slice(0, 200), 'dir'), 'control: one of a hundred levels is none')
})
