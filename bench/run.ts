/** `./dev bench [NAME…]`: measures Ambit beside its peers and writes docs/performance.md. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf } from '../src/lib/errors.ts'
import type { Bench, Figure } from './figure.ts'
import { decision } from './figures/decision.ts'
import { gate } from './figures/gate.ts'
import { journal } from './figures/journal.ts'
import { runtimes } from './figures/runtimes.ts'
import { start } from './figures/start.ts'
import { view } from './figures/view.ts'
import { loadNow, machineNow } from './machine.ts'
import { writeSection } from './report.ts'

const FIGURES: readonly Figure[] = [start, gate, view, runtimes, decision, journal]
const PAGE = join(import.meta.dirname, '../docs/performance.md')

const names = process.argv.slice(2)
const unknown = names.filter((name) => !FIGURES.some((figure) => figure.name === name))
if (unknown.length > 0) {
  process.stderr.write(
    `bench: no figure ${unknown.join(', ')}; there are ${FIGURES.map(({ name }) => name).join(', ')}; see ./dev bench --help\n`,
  )
  process.exit(2)
}
for (const figure of FIGURES) {
  if (names.length > 0 && !names.includes(figure.name)) continue
  if (!(await measure(figure))) process.exitCode = 1
}

/** False when the figure itself failed; a peer that could not be had is a line in the page instead. */
async function measure(figure: Figure): Promise<boolean> {
  const cleanups: (() => unknown)[] = []
  const began = performance.now()
  const bench: Bench = {
    scratch: scratchDirectory(),
    say: (text) => void process.stderr.write(`· ${figure.name}: ${text}\n`),
    defer: (cleanup) => void cleanups.unshift(cleanup),
  }
  try {
    const load = loadNow()
    const section = await figure.run(bench)
    writeSection(PAGE, figure, section, machineNow(load))
    for (const { text, got, met } of section.goals)
      process.stdout.write(`${met === null ? '?' : met ? '✓' : '✗'} ${figure.name}: ${text}: ${got}\n`)
    bench.say(`done in ${((performance.now() - began) / 1000).toFixed(0)} s`)
    return true
  } catch (error) {
    bench.say(`failed: ${messageOf(error)}`)
    if (process.env.AMBIT_DEBUG) process.stderr.write(`${(error as Error).stack}\n`)
    return false
  } finally {
    for (const cleanup of cleanups)
      await Promise.resolve()
        .then(cleanup)
        .catch(() => undefined)
    rmSync(bench.scratch, { recursive: true, force: true, maxRetries: 3 })
  }
}

/** /var/tmp, for /tmp is often a tmpfs, where durability costs nothing. */
function scratchDirectory(): string {
  const dir = mkdtempSync('/var/tmp/ambit-bench-')
  chmodSync(dir, 0o755)
  return dir
}
