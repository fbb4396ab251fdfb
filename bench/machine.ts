/** What a figure was measured on. */
import { execFileSync } from 'node:child_process'
import { cpus, loadavg, release } from 'node:os'

export interface Machine {
  readonly date: string
  readonly kernel: string
  readonly cpu: string
  readonly cores: number
  readonly node: string
  readonly commit: string
  /** One-minute load average when the figure began and when it ended. */
  readonly load: string
}

export function machineNow(loadBefore: number): Machine {
  const list = cpus()
  return {
    date: `${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC`,
    kernel: release(),
    cpu: list[0]?.model.trim() ?? 'unknown CPU',
    cores: list.length,
    node: process.versions.node,
    commit: commit(),
    load: `${loadBefore.toFixed(1)} before, ${loadNow().toFixed(1)} after`,
  }
}

export const loadNow = (): number => loadavg()[0] ?? Number.NaN

/** The commit measured; `+` when the product's sources differ from it. */
function commit(): string {
  const git = (...args: string[]): string =>
    execFileSync('git', args, { cwd: import.meta.dirname, encoding: 'utf8' }).trim()
  const changed =
    git('status', '--porcelain', '--', '../src', '../native', '../profiles', '../policies') !== ''
  return git('rev-parse', '--short=10', 'HEAD') + (changed ? '+' : '')
}
