/** How long a confined `true` takes, from the caller's side. */
import { spawn } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Bench, type Figure, type Goal, goal, type Table, valuesOf } from '../figure.ts'
import { attempt } from '../peers/attempt.ts'
import { srtCommand } from '../peers/srt.ts'
import { product } from '../product.ts'
import { phases } from './start-phases.ts'
import { columnOf, type Contender, paired, ratio } from '../stats.ts'

const ROUNDS = 21

export const start: Figure = {
  name: 'start',
  title: 'Start',
  async run(bench) {
    const project = join(bench.scratch, 'project')
    mkdirSync(project)
    writeFileSync(join(project, 'README.md'), '# A small project\n')
    const ours = await attempt(AMBIT, () => ambit(bench, project))
    const peers = [
      attempt(SRT, () => srt(bench, SRT, false, project)),
      attempt(SRT_TLS, () => srt(bench, SRT_TLS, true, project)),
    ]
    const contenders = [
      wall('true', ['true'], project),
      wall('bwrap --unshare-all', BWRAP, project),
      wall('node -e 0', [process.execPath, '-e', '0'], project),
      wall(HELP, [join(import.meta.dirname, '../../ambit'), 'run', '--help'], project),
      ours,
      ...(await Promise.all(peers)),
    ]
    bench.say(`${ROUNDS} rounds of ${contenders.length}`)
    const results = await paired(contenders, ROUNDS, 2)
    const table: Table = {
      caption: 'Wall time of a confined `true`',
      reference: 'true',
      columns: [{ title: 'wall', unit: 'ms', series: columnOf(results, 0) }],
    }
    const inside: Table = {
      caption: 'Where the time of `ambit run` goes, by the clocks of its records (median of each phase)',
      reference: null,
      columns: [await phases(join(bench.scratch, 'ambit-home'), 9, ours.measure)],
    }
    return { how: HOW, tables: [table, inside], goals: goals(table), limits: LIMITS }
  },
}

const AMBIT = 'ambit run --profile writer'
const HELP = 'ambit run --help'
const SRT = 'srt, one allowed domain'
const SRT_TLS = 'srt, tlsTerminate'
const BWRAP = 'bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev true'.split(' ')

const HOW = `From before the spawn to the exit of \`ambit run --profile writer --yes --quiet -- true\`, daemon running, all controls on,
log sequenced and signed before it returns; beside \`srt --settings FILE -- true\` (with and without TLS termination), a bare
bubblewrap with all namespaces, a bare Node and a bare \`true\`. Everything runs under the same Node. The project is a directory with one file.`

const LIMITS = [
  "The floor of a launcher written in TypeScript is Node's own start (`node -e 0`) and the namespaces (`bwrap`).",
  'The row *ambit run --help* is Node plus loading the code of a session: parsing the bundle, its schemas, and the parts of Node that it imports. What lies between it and *ambit run* is the session itself.',
]

async function ambit(bench: Bench, project: string): Promise<Contender> {
  const { run, env } = await product(bench)
  return wall(AMBIT, run(['--profile', 'writer', '--project', project, '--', 'true']), project, env)
}

async function srt(bench: Bench, name: string, tlsTerminate: boolean, project: string): Promise<Contender> {
  return wall(name, [...(await srtCommand(bench, ['example.com'], tlsTerminate)), 'true'], project)
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

function goals(table: Table): readonly Goal[] {
  const column = table.columns[0]
  const ours = column && valuesOf(column, AMBIT)
  return [SRT, SRT_TLS].map((peer) => {
    const theirs = column && valuesOf(column, peer)
    const share = ours && theirs ? ratio(ours, theirs).p50 : null
    return goal(`at most 1/4 of ${peer}`, share, (value) => value <= 0.25, ' of it')
  })
}
