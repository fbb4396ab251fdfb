/** How long a confined `true` takes, from the caller's side. */
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Bench, type Figure, goal, type Table, valuesOf } from '../figure.ts'
import { attempt } from '../peers/attempt.ts'
import { srtCommand } from '../peers/srt.ts'
import { product } from '../product.ts'
import { columnOf, type Contender, paired, ratio } from '../stats.ts'

const ROUNDS = 21

export const start: Figure = {
  name: 'start',
  title: 'Start',
  async run(bench) {
    const project = join(bench.scratch, 'project')
    mkdirSync(project)
    writeFileSync(join(project, 'README.md'), '# A small project\n')
    const contenders = await Promise.all([
      wall('true', ['true'], project),
      wall('bwrap --unshare-all', BWRAP, project),
      wall('node -e 0', [process.execPath, '-e', '0'], project),
      attempt(AMBIT, async () => ambit(bench, project)),
      attempt(SRT, async () => wall(SRT, [...(await srtCommand(bench, ['example.com'], false)), 'true'], project)),
      attempt(SRT_TLS, async () => wall(SRT_TLS, [...(await srtCommand(bench, ['example.com'], true)), 'true'], project)),
    ])
    bench.say(`${ROUNDS} rounds of ${contenders.length}`)
    const results = await paired(contenders, ROUNDS, 2)
    const table: Table = {
      caption: 'Wall time of a confined `true`',
      reference: 'true',
      columns: [{ title: 'wall', unit: 'ms', series: columnOf(results, 0) }],
    }
    return { how: HOW, tables: [table], goals: goals(table), limits: LIMITS }
  },
}

const AMBIT = 'ambit run --profile writer'
const SRT = 'srt, one allowed domain'
const SRT_TLS = 'srt, tlsTerminate'
const BWRAP = 'bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev true'.split(' ')

const HOW = `From before the spawn to the exit of \`ambit run --profile writer --yes --quiet -- true\`, daemon running, all controls on,
log sequenced and signed before it returns; beside \`srt --settings FILE -- true\` (with and without TLS termination), a bare
bubblewrap with all namespaces, a bare Node and a bare \`true\`. Everything runs under the same Node. The project is a directory with one file.`

const LIMITS = [
  'Node\'s own start (`node -e 0`) and the namespaces (`bwrap`) are the floor of a launcher written in TypeScript.',
]

async function ambit(bench: Bench, project: string): Promise<Contender> {
  const { run, env } = await product(bench)
  return wall(AMBIT, run(['--profile', 'writer', '--project', project, '--', 'true']), project, env)
}

function wall(name: string, argv: readonly string[], cwd: string, env = process.env): Contender {
  // srt wants its rg and Node on PATH; the same PATH for all.
  const path = { ...env, PATH: `${dirname(process.execPath)}:${env.PATH}` }
  return { name, measure: async () => [await timed(argv, cwd, path)] }
}

/** Milliseconds; rejects unless it exits with 0. */
function timed(argv: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Promise<number> {
  const [program, ...args] = argv
  return new Promise((resolve, reject) => {
    const began = performance.now()
    const child = spawn(program ?? '', args, { cwd, env, stdio: ['ignore', 'ignore', 'pipe'] })
    let complaint = ''
    child.stderr.on('data', (text: Buffer) => (complaint += text.toString()))
    child.on('error', reject)
    child.on('exit', (code) => {
      const took = performance.now() - began
      if (code === 0) resolve(took)
      else reject(new Error(`exit ${code}: ${complaint.trim().split('\n').at(-1)?.slice(0, 160)}`))
    })
  })
}

function goals(table: Table) {
  const column = table.columns[0]
  const ours = column && valuesOf(column, AMBIT)
  return [SRT, SRT_TLS].map((peer) => {
    const theirs = column && valuesOf(column, peer)
    const share = ours && theirs ? ratio(ours, theirs).p50 : null
    return goal(`at most 1/4 of ${peer}`, share, (value) => value <= 0.25, ' of it')
  })
}
