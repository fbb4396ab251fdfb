/** The commands of README.md, run in its order by somebody who has just read it. */
import assert from 'node:assert/strict'
import { readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { describe as output, type Ran, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8')

/** `./ambit …` lines of its shell blocks, without comments. */
const commands = [...readme.matchAll(/^```sh\n([\s\S]*?)^```/gm)]
  .flatMap(([, block = '']) => block.split('\n'))
  .map((line) => line.replace(/\s+#.*$/, '').trim())
  .filter((line) => line.startsWith('./ambit '))

for (const as of ['user', 'root'] as const)
  test(`the README's commands work, as ${as}`, {
    skip: unavailable(as) ?? false,
    timeout: 240_000,
  }, async () => {
    const stage = new Stage(as, { home: { 'work/ledger/january.csv': 'date,amount\n', 'bin/': '' } })
    // Nobody installs Claude Code for this: a command of that name that changes a file.
    stage.put(stage.home, {
      'bin/claude': '#!/bin/sh\necho "date,amount,checked" > january.csv\ncat ~/.ssh/id_rsa\n',
    })
    await stage.command(['chmod', '+x', join(stage.home, 'bin/claude')])
    // Not in the home: `~/ambit` is where workspaces go.
    symlinkSync(stage.product.ambit, join(stage.outside, 'ambit'))
    const env = { PATH: `${join(stage.home, 'bin')}:${process.env.PATH}` }
    let session = ''
    assert.ok(commands.length >= 6, `found ${commands.length} commands`)
    for (const line of commands) {
      // The demonstration has a test of its own.
      if (line === './ambit demo') continue
      const ran = await stage.command(['/bin/sh', '-c', asTyped(line, session)], {
        cwd: stage.outside,
        env,
      })
      assert.ok(passes(line, ran), `${line}\n${output(ran)}`)
      session ||= /session (s[a-z0-9-]+)/.exec(ran.stdout + ran.stderr)?.[1] ?? ''
    }
    assert.notEqual(session, '', 'a session ran')
    assert.equal(
      readFileSync(join(stage.home, 'work/ledger/january.csv'), 'utf8'),
      'date,amount\n',
      'changes wait',
    )
  })

/** What a person would type for the placeholders; nobody is at a terminal, so `--yes`. */
function asTyped(line: string, session: string): string {
  return line.replace(/\bID\b/, session).replace('run --profile', 'run --yes --profile')
}

/** `doctor` may say that something is missing here; everything else ends with 0, the session with its command's 1. */
function passes(line: string, ran: Ran): boolean {
  if (line.startsWith('./ambit run')) return ran.code === 1 && /session s/.test(ran.stderr)
  return ran.code === 0
}
