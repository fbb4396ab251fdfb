/** `./ambit demo`: the finance case ends well, soon once set up. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { agents } from '../support/caches.ts'
import { placeAgent } from '../support/demo-stage.ts'
import { describe, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

for (const as of ['user', 'root'] as const)
  test(`the demonstration does its work and refuses every attempt, as ${as}`, {
    skip: unavailable(as) ?? false,
    timeout: 900_000,
  }, async () => {
    const stage = new Stage(as)
    // One fetches the agent, as a person does at first; the second run is the one that a person waits for.
    if (as === 'root' && typeof agents === 'string') placeAgent(stage)
    const first = await stage.ambit(['demo'], { timeout: 600_000 })
    assert.equal(first.code, 0, describe(first))
    const second = await stage.ambit(['demo'], { timeout: 180_000 })
    assert.equal(second.code, 0, describe(second))
    assert.ok(second.ms < 150_000, `it took ${Math.round(second.ms / 1000)} s`)
    const said = second.stdout + second.stderr
    for (const attempt of [/\.ssh/, /upload|other host|exfil/i, /key/i, /hooks/, /dns/i])
      assert.match(said, attempt)
    assert.doesNotMatch(said, /BREACH/i)
  })
