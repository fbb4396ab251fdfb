/** Mutation fuzzing in one process: cheap enough for every test run, repeatable by its seed. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Target } from './targets.ts'

export interface Finding {
  readonly input: Buffer
  readonly error: unknown
}

export interface Fuzzed {
  readonly runs: number
  readonly finding: Finding | null
}

/** An input that takes longer than this is a finding: parsers of outside bytes are linear. */
const SLOW_MS = 1000
const LONGEST = 1 << 16

/** Inputs that once broke something, kept as cases. */
export function knownCrashes(name: string): Buffer[] {
  const dir = join(import.meta.dirname, 'crashes', name)
  return existsSync(dir) ? readdirSync(dir).map((file) => readFileSync(join(dir, file))) : []
}

/** Runs seeds, known crashes, then mutations of them until `milliseconds` have passed. */
export function fuzz(name: string, target: Target, milliseconds: number, seed: number): Fuzzed {
  const random = xorshift(seed)
  const corpus = [...target.seeds, ...knownCrashes(name)]
  let runs = 0
  for (const input of corpus) {
    runs++
    const error = tryOne(target, input)
    if (error !== null) return { runs, finding: { input, error } }
  }
  for (const end = performance.now() + milliseconds; performance.now() < end; runs++) {
    const input = mutate(corpus, random)
    const error = tryOne(target, input)
    if (error !== null) return { runs, finding: { input, error } }
    // A little drift away from the seeds; old inputs stay likely.
    if (runs % 64 === 0 && corpus.length < 4096) corpus.push(input)
  }
  return { runs, finding: null }
}

function tryOne(target: Target, input: Buffer): unknown {
  const started = performance.now()
  try {
    target.run(Buffer.from(input))
  } catch (error) {
    return error
  }
  const took = performance.now() - started
  return took > SLOW_MS ? new Error(`took ${Math.round(took)} ms`) : null
}

export type Random = (below: number) => number

/** Marsaglia's xorshift32: repeatable, nothing more is asked of it. */
export function xorshift(seed: number): Random {
  let state = seed | 1
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % Math.max(1, below)
  }
}

const SPICE = [
  '\0',
  '\r\n',
  '\n',
  '..',
  '//',
  '%00',
  '\u202e',
  '\ufeff',
  '::',
  '@',
  '*',
  '**',
  '{',
  '[',
  '"',
  '&a *a',
  '- ',
  '\ud800',
].map((part) => Buffer.from(part))

export function mutate(corpus: readonly Buffer[], random: Random): Buffer {
  let bytes: Buffer = Buffer.from(corpus[random(corpus.length)] ?? Buffer.alloc(0))
  for (let steps = 1 + random(6); steps > 0; steps--) bytes = step(bytes, corpus, random)
  return bytes.subarray(0, LONGEST)
}

function step(bytes: Buffer, corpus: readonly Buffer[], random: Random): Buffer {
  const at = random(bytes.length + 1)
  const cut = at + random(Math.min(32, bytes.length - at + 1))
  const [before, middle, after] = [bytes.subarray(0, at), bytes.subarray(at, cut), bytes.subarray(cut)]
  switch (random(8)) {
    case 0:
      return Buffer.concat([before, after])
    case 1:
      return Buffer.concat([before, middle, middle, after])
    case 2:
      return Buffer.concat([before, Buffer.from([random(256)]), after])
    case 3:
      return Buffer.concat([before, SPICE[random(SPICE.length)] ?? middle, after])
    case 4: {
      const other = corpus[random(corpus.length)] ?? middle
      return Buffer.concat([before, other.subarray(random(other.length + 1))])
    }
    case 5:
      return Buffer.concat([before, Buffer.alloc(1 + random(300), middle[0] ?? 65), after])
    case 6:
      return Buffer.concat([before, Buffer.from([0xff, 0xff, 0xff, 0xff].slice(random(4))), after])
    default: {
      const copy = Buffer.from(bytes)
      if (copy.length > 0) copy[random(copy.length)] = (copy[random(copy.length)] ?? 0) ^ (1 << random(8))
      return copy
    }
  }
}
