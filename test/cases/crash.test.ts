/** A crash inside leaves no core and starts nothing on the host. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crashStage, NO_CRASH } from '../support/crash.ts'
import { describe } from '../support/stage.ts'
import { unavailable } from '../support/users.ts'

for (const as of ['user', 'root'] as const)
  test(`crash: the limit of one byte stays, whoever asks for none, as ${as}`, {
    skip: NO_CRASH ?? unavailable(as) ?? false,
  }, async () => {
    const stage = crashStage(as, [])
    const work = 'ulimit -c 0 && ulimit -S -c 0 && echo lowered; python3 lower.py x; echo $?; ls'
    const ran = await stage.session(['/bin/sh', '-c', work])
    // The shell believes it, as one that is refused might not go on.
    assert.match(ran.stdout, /^lowered\n0 0 -1\n1 1\n139\n/, describe(ran))
    assert.doesNotMatch(ran.stdout, /core/, 'and no core file')
    const outside = await stage.command(['python3', 'lower.py', 'x'])
    assert.match(outside.stdout, /^0 0 0\n0 0\n$/, 'control: outside it is lowered')
  })
