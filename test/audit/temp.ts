import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

const MEMORY = '/dev/shm'
// In memory where there is enough (a container has 64 MiB): these tests sync thousands of times, and the model of the
// disk is theirs, not the disk's.
const place = fs.existsSync(MEMORY) && roomIn(MEMORY) >= 2 ** 29 ? MEMORY : tmpdir()

function roomIn(dir: string): number {
  const { bavail, bsize } = fs.statfsSync(dir)
  return bavail * bsize
}

/** A directory that goes with the test. */
export function tempDir(t: TestContext): string {
  const dir = fs.mkdtempSync(join(place, 'ambit-test-'))
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }))
  return dir
}
