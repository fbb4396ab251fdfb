/**
 * The container runtime on a gVisor that is newer than Debian's: built from its Go module, and put in the place of the
 * machine's own for these tests alone, in a mount namespace. Each platform that runs, systrap by itself.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { lookForRunsc } from '../../src/runtime/gvisor.ts'
import { newerRunsc } from '../support/caches.ts'
import { withoutPrograms } from '../support/programs.ts'
import { RUNTIME_VARIABLE } from '../support/runtime.ts'

const root = join(import.meta.dirname, '../..')
const missing =
  process.getuid?.() === 0 ? withoutPrograms('runsc', 'go', 'unshare') : 'needs root, for a mount namespace'
const built = missing === null ? newerRunsc() : new Error(missing)

/** What shows at once that files, processes, network, the record or the guest's confinement are others than before. */
const FILES = ['cases/container', 'cases/files', 'cases/containment', 'cases/published-cell', 'cases/network']
const NAMES = '^(container:|C-49|C-50|F-01|F-02|F-07|C-02|C-11|C-32|V-23|N-01) ?'
const AT_LEAST = 24

test('a newer gVisor runs sessions, and attacks on them are refused as on the one of 2022', {
  skip: built instanceof Error ? built.message : false,
  timeout: 600_000,
}, () => {
  assert.ok(!(built instanceof Error))
  const program = join(built, 'runsc')
  // Of an ordinary user, too.
  chmodSync(built, 0o755)
  const files = FILES.map((name) => `test/${name}.test.ts`)
  const tests = [
    '--test',
    '--test-reporter=spec',
    '--test-concurrency=1',
    `--test-name-pattern=${NAMES}`,
    ...files,
  ]
  const script = 'mount --bind "$1" "$2"; shift 2; exec "$@"'
  const args = ['-m', '--propagation', 'private', '/bin/sh', '-euc', script, 'newer', program]
  // Without this one it is a run of its own, with a status of its own.
  const env = { ...process.env, [RUNTIME_VARIABLE]: 'container', NODE_TEST_CONTEXT: undefined }
  const ran = spawnSync('unshare', [...args, lookForRunsc() ?? '', process.execPath, ...tests], {
    cwd: root,
    env,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  })
  assert.equal(ran.status, 0, `${ran.stdout.slice(ran.stdout.indexOf('failing tests'))}${ran.stderr}`)
  const passed = Number(/^ℹ pass (\d+)$/m.exec(ran.stdout)?.[1])
  assert.ok(passed >= AT_LEAST, `${passed} passed`)
})
