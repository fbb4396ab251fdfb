/** The log of a real session, verified by a program that shares no line with Ambit (test/fixtures/go-verify). */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { once } from '../support/case.ts'
import { describe, Stage } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const source = join(import.meta.dirname, '../fixtures/go-verify')
const scratch = mkdtempSync(join(tmpdir(), 'ambit-go-'))
after(() => rmSync(scratch, { recursive: true, force: true }))

const hasGo = spawnSync('go', ['version'], { stdio: 'ignore' }).status === 0
const skipGo = hasGo ? null : 'go is not installed'

const verifier = once(async () => {
  const binary = join(scratch, 'go-verify')
  execFileSync('go', ['build', '-o', binary, '.'], { cwd: source, stdio: 'pipe' })
  return binary
})

for (const as of ['user', 'root'] as const)
  test(`an independent verifier accepts the log of a session and refuses a changed one, as ${as}`, {
    skip: skipGo ?? unavailable(as) ?? false,
  }, async () => {
    const stage = new Stage(as, { files: { 'a.txt': 'a' } })
    // More than one full tile of 256.
    const steps = Array.from({ length: 300 }, (_, index) => ({
      name: `w${index}`,
      op: 'write',
      path: join(stage.project, `f${index}`),
    }))
    const ran = await stage.inside(steps)
    assert.equal(ran.summary.outcome, 'ended', describe(ran))
    const dir = (await stage.ambit(['log', 'dir'])).stdout.trim()
    const key = (await stage.ambit(['log', 'key'])).stdout.trim()
    const events = await stage.events()
    const honest = spawnSync(await verifier(null), [dir, key], { encoding: 'utf8' })
    assert.equal(honest.status, 0, honest.stdout + honest.stderr)
    assert.match(honest.stdout, new RegExp(`^ok ${events.length} `), 'it counts what ambit log prints')
    assert.ok(events.length > 256, `${events.length} events`)

    const copy = join(scratch, `copy-${as}`)
    cpSync(dir, copy, { recursive: true })
    const [bundle = ''] = globSync('tile/entries/**/*', { cwd: copy }).filter((path) =>
      statSync(join(copy, path)).isFile(),
    )
    const data = readFileSync(join(copy, bundle))
    data[100] = (data[100] ?? 0) ^ 1
    writeFileSync(join(copy, bundle), data)
    const changed = spawnSync(await verifier(null), [copy, key], { encoding: 'utf8' })
    assert.equal(changed.status, 1, changed.stdout)
  })
