/** Where the processors' time goes, by perf: stacks of the whole machine, a thousand a second. */
import { spawn } from 'node:child_process'
import { closeSync, createReadStream, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Bench } from './figure.ts'

export interface Frame {
  readonly symbol: string
  /** The program or library; `[kernel.kallsyms]` for the kernel. */
  readonly object: string
}

/** One look at one processor: who had it, and where, innermost frame first. */
export interface Sample {
  /** 0: nobody. */
  readonly pid: number
  readonly stack: readonly Frame[]
}

const RATE = 997

/** Samples of all processors during `work`. @throws Error where perf is missing or not allowed to look. */
export async function sampled(bench: Bench, work: () => Promise<unknown>): Promise<readonly Sample[]> {
  const data = join(bench.scratch, 'perf.data')
  const text = join(bench.scratch, 'perf.txt')
  const record = ['record', '-q', '-a', '-g', '-F', String(RATE), '-e', 'cpu-clock', '-o', data]
  try {
    const recording = perf(record, 'ignore')
    const early = recording.ended.then((said) => {
      throw new Error(said || 'perf ended')
    })
    early.catch(() => undefined)
    // It says nothing when it begins.
    await Promise.race([early, new Promise((resolve) => setTimeout(resolve, 700))])
    await Promise.race([early, work()])
    recording.stop()
    await recording.ended
    const out = openSync(text, 'w')
    try {
      const said = await perf(['script', '-i', data, '-F', 'pid,ip,sym,dso'], out).ended
      const samples = await samplesOf(createInterface(createReadStream(text)))
      if (samples.length === 0) throw new Error(said || 'perf saw nothing')
      return samples
    } finally {
      closeSync(out)
    }
  } finally {
    for (const file of [data, text]) rmSync(file, { force: true })
  }
}

/** `ended` resolves with the last line of its complaints. */
function perf(args: readonly string[], out: 'ignore' | number): { ended: Promise<string>; stop: () => void } {
  const child = spawn('perf', [...args], { stdio: ['ignore', out, 'pipe'] })
  let said = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-2000)
  })
  const ended = new Promise<string>((resolve, reject) => {
    child.once('error', () => reject(new Error('perf is not here')))
    child.once('close', () => resolve(said.trim().split('\n').at(-1) ?? ''))
  })
  return { ended, stop: () => void child.kill('SIGINT') }
}

/** Of `perf script -F pid,ip,sym,dso`: a line with the process, a line for each frame, an empty one. */
export async function samplesOf(lines: AsyncIterable<string> | Iterable<string>): Promise<readonly Sample[]> {
  const samples: Sample[] = []
  let stack: Frame[] = []
  for await (const line of lines) {
    const process = /^\s*(\d+)\s*$/.exec(line)?.[1]
    const frame = /^\s+[0-9a-f]+ (.*) \((.*)\)$/.exec(line)
    if (process !== undefined) {
      stack = []
      samples.push({ pid: Number(process), stack })
    } else if (frame) {
      stack.push({ symbol: frame[1] ?? '', object: frame[2] ?? '' })
    }
  }
  return samples
}

/** Shares of `samples` in percent by the name that `groupOf` gives, the largest first. */
export function shares(
  samples: readonly Sample[],
  groupOf: (sample: Sample) => string,
): readonly (readonly [string, number])[] {
  const counts = new Map<string, number>()
  for (const sample of samples) {
    const group = groupOf(sample)
    counts.set(group, (counts.get(group) ?? 0) + 1)
  }
  return [...counts]
    .map(([name, count]) => [name, (100 * count) / samples.length] as const)
    .toSorted(([, a], [, b]) => b - a)
}
