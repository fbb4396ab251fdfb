/** At a terminal: windows, jobs, editors, pagers, Unicode; driven through a pty as a person would. */
import assert from 'node:assert/strict'
import { cpSync } from 'node:fs'
import { basename, join } from 'node:path'
import { after, test } from 'node:test'
import { once } from '../support/case.ts'
import { describe, Stage } from '../support/stage.ts'
import { type As, unavailable } from '../support/users.ts'

after(() => setTimeout(() => process.exit(), 100).unref())

const seen = once(async (as: As) => {
  const stage = new Stage(as)
  for (const file of ['terminal.py', '../support/terminal_driver.py'])
    cpSync(join(import.meta.dirname, file), join(stage.outside, basename(file)))
  stage.own()
  const ambit = [stage.product.ambit, ...stage.run([], stage.profile())]
  const argv = ['/usr/bin/python3', join(stage.outside, 'terminal.py'), ...ambit]
  const ran = await stage.command(argv, { env: { TERM: 'xterm-256color' }, timeout: 200_000 })
  assert.equal(ran.code, 0, describe(ran))
  return JSON.parse(ran.stdout) as Record<string, true | string>
})

const NAMES = [
  'size',
  'resized',
  'window change signal',
  'ctrl-z',
  'bg',
  'fg and ctrl-c',
  'status of an interrupted job',
  'end of file',
  'unicode',
  'unicode typed',
  'unicode names',
  'less',
  'less to the end',
  'vim',
  'vim wrote',
  'tmux',
  'tmux shell',
  'tmux ends',
  "other windows' clipboard and title",
  'exit status',
  'ctrl-c ends a command with 130',
  'a closed terminal ends the session',
]

for (const as of ['user', 'root'] as const)
  for (const name of NAMES)
    test(`terminal: ${name}, as ${as}`, { skip: unavailable(as) ?? false }, async (context) => {
      const result = (await seen(as))[name]
      if (result === undefined) context.skip(`${name.split(' ')[0]} is not installed`)
      else assert.equal(result, true)
    })
