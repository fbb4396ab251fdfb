/** C-04 and C-53: what the kernel answers to every call, and the preconditions of published container escapes. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { release } from 'node:os'
import { join } from 'node:path'
import { attack, attackIn, once } from '../support/case.ts'
import { Stage, type Step, type Steps } from '../support/stage.ts'
import type { As } from '../support/users.ts'

const onX64 = attackIn(process.arch === 'x64' ? null : 'the call numbers of this case are those of x86-64')

/** The reviewed list of what the filter refuses; the filter's own test holds the same file. */
const GOLDEN = join(import.meta.dirname, '../../native/launch/src/blocked-x86_64.txt')
/** Beyond the newest known call, where a new kernel would put what nobody has looked at. */
const LAST = 511

/**
 * Not made: the call would end, block or starve the one who asks (exit, exit_group, pause, rt_sigreturn, vfork), wait
 * (rt_sigsuspend, select without anything), or send to its own group (kill with 0 means all of it).
 */
const SKIPPED = new Set([15, 34, 57, 58, 60, 62, 130, 231])

const calls = (): number[] => Array.from({ length: LAST + 1 }, (_, call) => call).filter((c) => !SKIPPED.has(c))

const scene = once(async (as: As): Promise<{ inside: Steps; outside: Steps }> => {
  const stage = new Stage(as)
  const steps: Step[] = [
    { name: 'calls', op: 'probe', args: ['every-call', ...calls().map(String)], timeout: 60_000 },
  ]
  return { inside: await stage.inside(steps), outside: await stage.uncontrolled(steps) }
})

function answers(steps: Steps): Map<number, string> {
  const lines = (steps.result('calls').value as string).split('\n').filter((line) => /^\d+ /.test(line))
  return new Map(lines.map((line) => line.split(' ') as [string, string]).map(([call, said]) => [Number(call), said]))
}

onX64('C-04', 'blocks exactly the calls of the reviewed list', async (as) => {
  const { inside, outside } = await scene(as)
  const [got, free] = [answers(inside), answers(outside)]
  assert.equal(got.size, calls().length, 'every call was answered')
  const refused = (said: string | undefined): boolean => said === 'EPERM' || said === 'ENOSYS'
  const golden = new Set(
    readFileSync(GOLDEN, 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => Number.parseInt(line, 10)),
  )
  // Refused here and, by the kernel itself, outside: then the answer says nothing about the filter.
  const byKernel = (call: number): boolean => refused(free.get(call))
  const newlyAllowed = [...golden].filter((call) => got.has(call) && !refused(got.get(call)) && !DECIDED.has(call))
  assert.deepEqual(newlyAllowed, [], `allowed, though on the list: ${newlyAllowed.join(' ')}`)
  const newlyBlocked = [...got.keys()].filter(
    (call) => call < 335 && refused(got.get(call)) && !golden.has(call) && !byKernel(call),
  )
  assert.deepEqual(newlyBlocked, [], `blocked, though not on the list: ${newlyBlocked.join(' ')}`)
  const beyond = [...got.keys()].filter((call) => call > 469 && got.get(call) !== 'ENOSYS')
  assert.deepEqual(beyond, [], 'what is newer than the list is ENOSYS')
  const lifted = [...golden].filter((call) => got.has(call) && !byKernel(call))
  assert.ok(lifted.length > 40, `control: outside the kernel takes ${lifted.length} of the blocked calls`)
  return `${golden.size} blocked as listed; ${lifted.length} of them answered outside`
})

/** On the list because some arguments are refused; with zeros the kernel is asked. */
const DECIDED = new Set<number>()
