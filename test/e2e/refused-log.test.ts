/** A log that does not fit what was signed: what a person is told, and that the way on in docs/operations.md is one. */
import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { endProcesses, eventually, processesWith } from '../support/processes.ts'
import { describe, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

test('a refused log is named, can be verified, and is begun anew by moving it and its key away', {
  skip: unavailable('user') ?? false,
}, async () => {
  const stage = new Stage('user')
  const state = join(stage.ambitHome, 'state')
  const ended = async (): Promise<boolean> => {
    endProcesses(stage.root)
    return await eventually(() => processesWith(stage.root).length === 0)
  }
  assert.equal((await stage.session(['/bin/true'])).code, 0)
  assert.ok(await ended())
  cpSync(join(state, 'log'), join(stage.outside, 'copy'), { recursive: true })
  stage.own()
  writeFileSync(join(state, 'log/checkpoint'), 'x\n')

  const refused = await stage.session(['/bin/echo', 'it-ran'])
  assert.equal(refused.code, 125, describe(refused))
  assert.match(
    refused.stderr,
    /the log was refused: its checkpoint: .*; run ambit log verify; .*keys\/log\.key away.* \[ERR_LOG/,
  )
  const verified = await stage.ambit(['log', 'verify'])
  assert.equal(verified.code, 1, describe(verified))
  assert.match(verified.stderr, /^ambit: the log was refused: .*\nambit: log .*: the signed note was refused/)
  const copy = await stage.ambit(['log', 'verify', join(stage.outside, 'copy')])
  assert.match(copy.stdout, /^ok: \d+ entries/, `control: the copy holds: ${describe(copy)}`)

  assert.ok(await ended())
  const evidence = join(stage.outside, 'evidence')
  mkdirSync(evidence)
  for (const name of ['log', 'keys/log.key']) renameSync(join(state, name), join(evidence, basename(name)))
  const again = await stage.session(['/bin/echo', 'it-ran'])
  assert.equal(again.code, 0, describe(again))
  const anew = await stage.ambit(['log', 'verify'])
  assert.match(anew.stdout, /^ok: \d+ entries/, describe(anew))
  assert.ok(existsSync(join(evidence, 'log/state.json')))
})
