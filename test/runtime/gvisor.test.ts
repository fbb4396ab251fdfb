/** What a `runsc` knows, asked of programs that answer as it would. */
import assert from 'node:assert/strict'
import { chmodSync } from 'node:fs'
import { test } from 'node:test'
import { knowsDirectfs } from '../../src/runtime/gvisor.ts'
import { World } from '../profile/support.ts'

/** A program that says this when it is given the flag, and runs without it. */
function runsc(world: World, name: string, script: string): string {
  const path = world.write(
    `bin/${name}`,
    `#!/bin/sh\n[ "$1" = --version ] && exit 0\n[ "$1" = --directfs=false ] || exit 9\n${script}\n`,
  )
  chmodSync(path, 0o755)
  return path
}

test('only a runsc that says that it knows no flag of the name is started without it', async () => {
  using world = new World()
  assert.equal(await knowsDirectfs(runsc(world, 'newer', 'exit 0')), true)
  const says = 'echo "flag provided but not defined: -directfs" >&2; echo "Usage: runsc" >&2; exit 2'
  assert.equal(await knowsDirectfs(runsc(world, 'older', says)), false)
  for (const [name, script] of [
    ['busy', 'echo "cannot set up logging: no space left" >&2; exit 1'],
    ['other', 'echo "flag provided but not defined: -directfs-cache" >&2; exit 2'],
    ['killed', 'kill -9 $$'],
  ] as const)
    await assert.rejects(knowsDirectfs(runsc(world, name, script)), { code: 'ERR_RUNTIME_FAILED' }, name)
})
