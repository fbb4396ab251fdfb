/**
 * A host whose `core_pattern` is a pipe runs a program for each crash, also under a core limit of 0. It is the host's own
 * setting: exchanged for seconds, and put back by a process that ends with this one.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { crashStage, NO_CRASH } from '../support/crash.ts'
import { eventually } from '../support/processes.ts'
import { describe } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

const PATTERN = '/proc/sys/kernel/core_pattern'

function fixed(): string | null {
  if (process.getuid?.() !== 0) return 'the tests do not run as root'
  try {
    return accessSync(PATTERN, constants.W_OK) ?? null
  } catch {
    return `${PATTERN} cannot be written here`
  }
}

/** Works while the host's pattern is `pattern`. */
async function under(pattern: string, work: () => Promise<void>): Promise<void> {
  const script = `old=$(cat ${PATTERN}); trap '' TERM INT HUP; printf %s "$1" > ${PATTERN} && echo set; read -r _; printf %s "$old" > ${PATTERN}`
  const keeper = spawn('/bin/sh', ['-c', script, 'sh', pattern], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  })
  const ended = once(keeper, 'exit')
  try {
    await once(keeper.stdout, 'data')
    await work()
  } finally {
    keeper.stdin.end()
    await ended
  }
}

for (const as of ['user', 'root'] as const)
  test(`crash: runs no handler of the host, as ${as}`, {
    skip: NO_CRASH ?? unavailable(as) ?? fixed() ?? false,
  }, async () => {
    const before = readFileSync(PATTERN, 'utf8')
    const dir = mkdtempSync(join(tmpdir(), 'ambit-crash-'))
    const [handler, seen] = [join(dir, 'handler'), join(dir, 'seen')]
    writeFileSync(handler, `#!/bin/sh\necho "$1" >> ${seen}\ncat > /dev/null\n`)
    chmodSync(handler, 0o755)
    const stage = crashStage(as, ['crash-plain', 'crash-lower', 'crash-outside'])
    const crash = `-c 'kill -SEGV $$'`
    try {
      await under(`|${handler} %e`, async () => {
        const work = `./crash-plain ${crash}; echo $?; (ulimit -c 0; ./crash-lower ${crash}); echo $?; python3 lower.py crash-called; echo $?`
        const ran = await stage.session(['/bin/sh', '-c', work])
        assert.deepEqual(ran.stdout.match(/^139$/gm)?.length, 3, describe(ran))
        const outside = await stage.command(['/bin/sh', '-c', `ulimit -c 0; ./crash-outside ${crash}`])
        assert.equal(outside.code, 139, describe(outside))
        const told = (): string => (existsSync(seen) ? readFileSync(seen, 'utf8') : '')
        assert.ok(
          await eventually(() => told().includes('crash-outside')),
          'control: outside it runs, with the limit 0',
        )
        assert.doesNotMatch(told(), /crash-(plain|lower|called)/)
      })
    } finally {
      rmSync(dir, { recursive: true })
    }
    assert.equal(readFileSync(PATTERN, 'utf8'), before)
  })
