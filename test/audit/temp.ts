import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'

// In memory where possible: these tests sync thousands of times, and the model of the disk is theirs, not the disk's.
const place = fs.existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

/** A directory that goes with the test. */
export function tempDir(t: TestContext): string {
  const dir = fs.mkdtempSync(join(place, 'ambit-test-'))
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }))
  return dir
}
