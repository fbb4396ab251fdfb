/** C-04: what is answered to every call, by the built command, against the reviewed list. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { attackIn, once } from '../support/case.ts'
import { RUNTIME } from '../support/runtime.ts'
import { Stage, type Step, type Steps } from '../support/stage.ts'
import type { As } from '../support/users.ts'

const onX64 = attackIn(process.arch === 'x64' ? null : 'the call numbers of this case are those of x86-64')

/** The reviewed list of what the filter refuses; the filter's own test holds the same file. */
const GOLDEN = join(import.meta.dirname, '../../native/launch/src/blocked-x86_64.txt')
/** Beyond the newest known call, where a new kernel would put what nobody has looked at. */
const LAST = 511

/** Not made: sync(2) would wait for every disk of the machine. */
const SKIPPED = new Set([162])
/**
 * Not made outside, where root asks: these would change the machine with zeros (host and domain name, accounting, the
 * kernel that waits to be booted, a terminal's end).
 */
const HARMFUL = new Set([153, 163, 169, 170, 171, 246])
/** The three on the list whose arguments decide: zeros are refused by their own words. */
const OWN_WORDS = new Map([
  [41, 'EAFNOSUPPORT'],
  [53, 'EAFNOSUPPORT'],
  [157, 'EINVAL'],
])
/** Numbers that x86-64 never gave out (335 and 336 are traps of the kernel's own probes); ENOSYS answers them. */
const UNASSIGNED = { first: 337, last: 423, newest: 469 }
/** setgroups(2) asks for a capability that root has outside and nobody inside. */
const CAPABLE = new Set([116])
/** Of scheduling, which gVisor has only for those who may be nice: sched_setparam, sched_rr_get_interval, ioprio_*. */
const NICE = new Set([142, 148, 251, 252])

/** Of the image's kernel, Debian's 6.1, and the two traps, which come with later ones. */
const IMAGE_NEWEST = 450
const TRAPS = new Set([335, 336])

/** What the kernel inside may lack, where it is not the host's: then nobody refused it. */
function mayLack(call: number): boolean {
  // gVisor has fewer calls than Linux.
  if (RUNTIME === 'container') return true
  return RUNTIME === 'microvm' && (call > IMAGE_NEWEST || TRAPS.has(call))
}

const calls = (): number[] =>
  Array.from({ length: LAST + 1 }, (_, call) => call).filter((call) => !SKIPPED.has(call))

const scene = once(async (as: As): Promise<{ inside: Steps; outside: Steps }> => {
  const stage = new Stage(as)
  const steps = (numbers: readonly number[]): Step[] => [
    { name: 'calls', op: 'probe', args: ['every-call', ...numbers.map(String)], timeout: 60_000 },
  ]
  const harmless = calls().filter((call) => !HARMFUL.has(call))
  return { inside: await stage.inside(steps(calls())), outside: await stage.uncontrolled(steps(harmless)) }
})

function answers(steps: Steps): Map<number, string> {
  const lines = (steps.result('calls').value as string).split('\n').filter((line) => /^\d+ /.test(line))
  return new Map(lines.map((line) => line.split(' ')).map(([call = '', said = '']) => [Number(call), said]))
}

onX64('C-04', 'blocks exactly the calls of the reviewed list', async (as) => {
  const { inside, outside } = await scene(as)
  const [got, free] = [answers(inside), answers(outside)]
  assert.equal(got.size, calls().length, 'every call was answered')
  const listed = readFileSync(GOLDEN, 'utf8').split('\n').filter(Boolean)
  const golden = new Set(listed.map((line) => Number.parseInt(line, 10)))
  const refused = (said = ''): boolean => said === 'EPERM' || said === 'ENOSYS'
  const absent = (call: number): boolean =>
    (got.get(call) === 'ENOSYS' && mayLack(call)) || (RUNTIME === 'container' && NICE.has(call))
  const blocked = (call: number): boolean => refused(got.get(call)) || got.get(call) === OWN_WORDS.get(call)
  const said = (numbers: readonly number[]): string[] => numbers.map((call) => `${call} ${got.get(call)}`)
  assert.deepEqual(said([...golden].filter((call) => !blocked(call))), [], 'allowed, though on the list')
  // What the kernel itself refuses outside says nothing about the filter.
  const unlisted = [...got.keys()].filter(
    (call) => call <= UNASSIGNED.newest && (call < UNASSIGNED.first || call > UNASSIGNED.last),
  )
  assert.deepEqual(
    said(
      unlisted.filter(
        (call) =>
          refused(got.get(call)) &&
          !absent(call) &&
          !golden.has(call) &&
          !CAPABLE.has(call) &&
          !refused(free.get(call)),
      ),
    ),
    [],
    'blocked, though not on the list',
  )
  const unknown = [...got.keys()].filter((call) => !unlisted.includes(call))
  assert.deepEqual(said(unknown.filter((call) => got.get(call) !== 'ENOSYS')), [], 'newer than the list')
  const answered = [...golden].filter((call) => free.has(call) && !refused(free.get(call)))
  assert.ok(answered.length > 30, `control: outside the kernel takes ${answered.length} of the blocked calls`)
  return `${golden.size} blocked as listed, ${answered.length} of them taken outside`
})
