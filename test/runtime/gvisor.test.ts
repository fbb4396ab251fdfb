/** What a `runsc` knows, asked of programs that answer as it would. */
import assert from 'node:assert/strict'
import { chmodSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { gvisor } from '../../src/runtime/doctor/gvisor.ts'
import { knowsDirectfs } from '../../src/runtime/gvisor.ts'
import { World } from '../profile/support.ts'

function program(world: World, name: string, script: string): string {
  const path = world.write(`bin/${name}`, `#!/bin/sh\n${script}\n`)
  chmodSync(path, 0o755)
  return path
}

/** A program that says this when it is given the flag, and runs without it. */
const runsc = (world: World, name: string, script: string): string =>
  program(world, name, `[ "$1" = --version ] && exit 0\n[ "$1" = --directfs=false ] || exit 9\n${script}`)

/** One that takes systrap by itself and runs a guest on each platform, but does `script` before. */
const platforms = (world: World, name: string, script: string): string =>
  program(
    world,
    name,
    `case "$*" in
--version) echo runsc of a test; exit ;;
flags) printf '  -platform string\\n    \\tone of many (default "systrap")\\n' >&2; exit ;;
*" do /bin/true") ;;
*) exit 9 ;;
esac
${script}`,
  )

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

test('a platform counts only where a guest ran on it in time; one that hangs is ended', {
  timeout: 60_000,
}, async () => {
  using world = new World()
  const hung = join(world.project, 'hung')
  const hangs = `case "$*" in
*--platform=kvm*) echo $$ > '${hung}'; exec sleep 600 ;;
*--platform=ptrace*) exit 1 ;;
esac`
  const found = await gvisor(platforms(world, 'hangs', hangs))
  assert.equal(found.state, 'fully')
  assert.match(found.detail, /: runsc of a test; platforms that really run: systrap; sessions take systrap$/)
  const pid = Number(readFileSync(hung, 'utf8'))
  assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' }, 'it is gone')

  const all = await gvisor(platforms(world, 'all', ''))
  assert.match(all.detail, /really run: kvm, systrap, ptrace; sessions take systrap$/, 'control: none hangs')
})

test('gVisor lacks where the platform that sessions take hangs, whatever runs beside it', {
  timeout: 60_000,
}, async () => {
  using world = new World()
  const own = 'case "$*" in *--platform=*) ;; *) exec sleep 600 ;; esac'
  const found = await gvisor(platforms(world, 'own', own))
  assert.equal(found.state, 'not')
  assert.match(found.detail, /really run: kvm, systrap, ptrace;/)
  assert.match(found.remedy ?? '', /newer runsc/)
})
