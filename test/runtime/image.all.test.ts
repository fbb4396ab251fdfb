/** The image twice, the second time as on a machine whose apt never fetched a list: bit by bit the same. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { installRoot } from '../../src/lib/paths.ts'
import { cannotBoot } from '../support/guest.ts'

const dir = mkdtempSync(join(tmpdir(), 'ambit-image-'))
after(() => rmSync(dir, { recursive: true, force: true }))

const ambit = join(installRoot(), 'ambit')
const namespaces = spawnSync('unshare', ['-rm', 'true']).status === 0 ? false : 'no user namespaces'

/** `ambit image build` in a home of its own, by a shell that runs `before` first. */
function build(name: string, before: string): { digests: Record<string, unknown>; said: string } {
  const home = join(dir, name)
  const env = { PATH: process.env.PATH, HOME: dir, AMBIT_HOME: home }
  const script = `${before}\nexec "$0" image build`
  const ran = spawnSync('unshare', ['-rm', '/bin/sh', '-euc', script, ambit], { env, encoding: 'utf8' })
  assert.equal(ran.status, 0, ran.stderr)
  const manifest = readFileSync(join(home, 'state/images/default/manifest.json'), 'utf8')
  return { digests: JSON.parse(manifest) as Record<string, unknown>, said: ran.stdout }
}

test('two builds of an image are the same, whatever the umask, the zone and the lists of apt', {
  skip: cannotBoot || namespaces,
}, () => {
  const first = build('first', 'umask 022')
  // What was fetched is what takes long; lists are fetched anew.
  const [from, to] = ['first', 'second'].map((name) => join(dir, name, 'state/images/.cache'))
  for (const place of ['cache/archives', 'kernel']) {
    mkdirSync(join(String(to), place), { recursive: true, mode: 0o700 })
    cpSync(join(String(from), place), join(String(to), place), { recursive: true })
  }
  const hidden = 'mount -t tmpfs none /var/lib/apt/lists; umask 077; export TZ=Pacific/Auckland'
  const second = build('second', hidden)
  assert.deepEqual(second.digests, first.digests)
  assert.equal(second.said.split(' ')[0], first.said.split(' ')[0], 'one digest names both')
  for (const name of ['vmlinux', 'initramfs.cpio', 'root.erofs']) {
    const [one, other] = ['first', 'second'].map((home) =>
      readFileSync(join(dir, home, 'state/images/default', name)),
    )
    assert.ok(one && other && one.equals(other), name)
  }
  assert.ok(existsSync(join(dir, 'second/state/images/.cache/state/lists')))
  assert.ok(
    readdirSync(join(dir, 'second/state/images/.cache/state/lists')).some((name) => /Packages/.test(name)),
  )
})
