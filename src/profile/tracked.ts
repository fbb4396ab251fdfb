/** Hidden names that git holds: the view hides the file, the repository still has its content. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { compileGlobs } from '../lib/glob.ts'
import { HOST_PATH } from '../lib/host-path.ts'
import { hidesAll } from './left-out.ts'
import type { Plan } from './plan.ts'

/** PATH_MAX: no file that a checkout could make has a longer name. */
const LONGEST = 4096

/** Absolute paths, sorted; attacker-controlled like all file names. Empty where there is no git. */
export function hiddenButTracked(plan: Plan): string[] {
  return plan.roots
    .filter((root) => !hidesAll(root.hide) && existsSync(join(root.path, '.git')))
    .flatMap((root) =>
      trackedIn(root.path)
        .filter(compileGlobs(root.hide))
        .map((name) => join(root.path, name)),
    )
    .toSorted()
}

/**
 * Names in git's index. Nothing that the repository configures runs: no file-system monitor, no fetch of what a
 * partial clone lacks, no transport.
 */
function trackedIn(root: string): string[] {
  const quiet = ['-c', 'core.fsmonitor=false', '-c', 'core.hooksPath=/dev/null', '-c', 'protocol.allow=never']
  const run = spawnSync('git', [...quiet, '-C', root, 'ls-files', '-z'], {
    encoding: 'utf8',
    timeout: 5000,
    maxBuffer: 64 * 1024 * 1024,
    env: {
      PATH: HOST_PATH,
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_GLOBAL: '/dev/null',
      GIT_NO_LAZY_FETCH: '1',
      GIT_OPTIONAL_LOCKS: '0',
      GIT_TERMINAL_PROMPT: '0',
    },
  })
  const names = run.status === 0 ? run.stdout.split('\0') : []
  return names.filter((name) => name !== '' && name.length < LONGEST)
}
