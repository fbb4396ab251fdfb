/** Random operations on a plain directory and in the view, in lock-step (lockstep.py). */
import assert from 'node:assert/strict'
import { cpSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { inView, makeWorld, own } from './harness.ts'

/** An operation of lockstep.py with its arguments. */
export type Step = readonly [string, ...(string | number)[]]

/** What each sequence begins with. */
const FILES = { a: 'a', b: 'bb', 'd/a': 'da', 'd/b': 'x'.repeat(9000), 'd/e/a': 'dea', 'e/a': 'ea' }
/** Places for shortening a sequence that fails. */
const SPARE = 150

/**
 * Where the view answers otherwise on purpose, and nothing follows from it: operation, plain answer, the view's.
 * Further ones, which the script leaves out: under review a directory of the host's does not move (EXDEV: its files
 * are not the agent's to move, mv(1) copies) and nothing swaps places (EINVAL: an upper layer's half of a swap could
 * not be applied by itself); links and size of directories are constants (they would count hidden names); a FIFO's
 * second name is a second pipe; under review a file of the host's that lost its name here takes no change of its
 * attributes (both in docs/threat-model.md).
 */
const DELIBERATE: readonly (readonly [string, unknown, unknown])[] = [
  // A file without a name: nothing to decide or to record.
  ['tmpfile', null, 'ENOTSUP'],
  // Moving content within a file is not in protocol 7.33's fallocate of fuse-backend-rs.
  ['collapse', 'EINVAL', 'ENOTSUP'],
  ['collapse', 'EBADF', 'ENOTSUP'],
  // Nothing of the session may act as somebody else on the host.
  ['suid', 0o6755, 0o755],
  // Attributes that the host's security modules read.
  ['security', 'EPERM', 'ENOTSUP'],
]

/**
 * Plays the `known` sequences, then `rounds` of `steps` operations, the first with `seed`. A failure names seed and
 * shortest sequence.
 */
export async function lockstep(
  access: 'write' | 'review',
  seed: number,
  rounds: number,
  steps: number,
  known: readonly Step[][] = [],
) {
  const all = known.length + rounds
  const places = [
    ...Array.from({ length: all }, (_, n) => `r${n}`),
    ...Array.from({ length: SPARE }, (_, n) => `s${n}`),
  ]
  const files = Object.fromEntries(
    places.flatMap((place) => Object.entries(FILES).map(([name, text]) => [`${place}/${name}`, text])),
  )
  const world = makeWorld([{ access, files }])
  try {
    const plain = join(world.dir, 'plain')
    cpSync(world.root(0), plain, { recursive: true })
    own(world.dir)
    const head = Object.entries({
      KNOWN: known,
      SEED: seed,
      ROUNDS: rounds,
      STEPS: steps,
      SPARE,
      PLAIN: plain,
      REVIEW: access === 'review' ? 1 : 0,
    }).map(([name, value]) => `${name} = ${JSON.stringify(value)}`)
    const deliberate = `DELIBERATE = json.loads(${JSON.stringify(JSON.stringify(DELIBERATE))})`
    const script = readFileSync(join(import.meta.dirname, 'lockstep.py'), 'utf8')
    const result = await inView(world, [...head, deliberate, script].join('\n'))
    assert.equal(result.difference, undefined, JSON.stringify(result.difference))
    assert.equal(result.rounds, all)
  } finally {
    world.remove()
  }
}
