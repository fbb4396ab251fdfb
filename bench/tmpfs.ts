import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { sh } from './cache.ts'
import type { Bench } from './figure.ts'

/** A tmpfs of our own where we may mount one: policy lets no session of root's work under /dev. */
export async function tmpfs(bench: Bench): Promise<string> {
  const own = join(bench.scratch, 'tmpfs')
  mkdirSync(own)
  try {
    await sh('mount', ['-t', 'tmpfs', '-o', 'size=8g,mode=755', 'ambit-bench', own])
    bench.defer(() => sh('umount', ['-l', own]))
    return own
  } catch {
    const shared = mkdtempSync('/dev/shm/ambit-bench-')
    bench.defer(() => rmSync(shared, { recursive: true, force: true }))
    await sh('chmod', ['755', shared])
    return shared
  }
}
