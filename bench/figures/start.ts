/** How long a confined `true` takes, from the caller's side. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
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
    const { run, env } = await product(bench)
    const cold = run(['--profile', 'writer', '--project', project, '--', 'true'])
    // Read by Node when it starts, so that no warm host may serve it.
    const coldEnv = { ...env, NODE_NO_WARNINGS: '1' }
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
      wall(COLD, cold, project, coldEnv),
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
      columns: [await phases(join(bench.scratch, 'ambit-home'), 9, ours.measure, () => hostReady(bench))],
    }
    return { how: HOW, tables: [table, inside], goals: goals(table), limits: LIMITS }
  },
}

const AMBIT = 'ambit run --profile writer'
const COLD = 'the same, cold: no session host'
const HELP = 'ambit run --help'
const SRT = 'srt, one allowed domain'
const SRT_TLS = 'srt, tlsTerminate'
const BWRAP = 'bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev true'.split(' ')

const HOW = `From before the spawn to the exit of \`ambit run --profile writer --yes --quiet -- true\`, daemon running, all controls on,
log sequenced and signed before it returns. A session host of \`ambitd\` is ready (it makes the next one a second after each
start); the row *cold* is what a start takes without. Beside \`srt --settings FILE -- true\` (with and without TLS termination), a bare
bubblewrap with all namespaces, a bare Node and a bare \`true\`. Everything runs under the same Node. The project is a directory with one file.`

const LIMITS = [
  "Node's own start and the loading of a session's code (*ambit run --help*) are paid beforehand, by the session host (docs/decisions/0005). What is left is the session itself.",
  'Tried, and kept: registration, namespaces, gate, view and cell side by side instead of one after the other; network rules by netlink in one message instead of a spawned `nft` (3 ms of a core); the session’s /etc in memory (on ext4 with discard, writing and removing its 53 files took 8 and 90 ms or more, and each sync of a journal wrote them, too); no `ambit-view review` where the upper layer is empty; profiles parsed and Rego modules loaded beforehand, used only for the very same contents; in `ambitd`, only syncs leave the event loop and those of one step run together. A session in which the view recorded nothing, such as this one, was finished again every three seconds by `ambitd`, syncs included, so that starts grew slower with each session before them; no longer.',
  'Then, by a timeline of all processes and a CPU profile of the session host, paired with the build before (11 rounds, both under real-time scheduling because of other work): 0.87 on the disk, by syncs that no longer wait for each other (tiles, state and checkpoint of the log in one round, then named; seal and record beside the checkpoint; journals of launcher and view made and named with the first sync of the session’s own; a drained output is an event, not a look each millisecond; the launcher’s own end is waited for last). 0.82 with the state in memory, where no sync counts: the order to build goes out before the view is started, and /etc is filled meanwhile; parsers of messages and facts are rehearsed; the host’s young objects have room from the start (5 ms of collections); Java’s list of roots is encoded beforehand.',
  'Tried without gain: V8’s baseline compiler for everything (`--always-sparkplug`), a second rehearsal (a fourth one gives 3 ms for some 100 ms of a core a session; not taken).',
  'Limit: the session host’s one thread (some 30 ms of JavaScript that runs for the first or second time) and after it bubblewrap (57 mounts, 17 ms) on two cores. Next: fork of the host for the view (2 to 4 ms: its memory is large) by a view that waits for its spec; the launcher started by the client at once (for an ordinary user; as root it must know its uid and sources first).',
]

async function ambit(bench: Bench, project: string): Promise<Contender> {
  const { run, env } = await product(bench)
  const timed = wall(AMBIT, run(['--profile', 'writer', '--project', project, '--', 'true']), project, env)
  const measure = async (): Promise<readonly number[]> => {
    await hostReady(bench)
    return await timed.measure()
  }
  return { ...timed, measure }
}

/** As it is for a person, who does not start a session each second. */
async function hostReady(bench: Bench): Promise<void> {
  const socket = join(bench.scratch, 'ambit-home/run/session.sock')
  for (let waited = 0; !existsSync(socket); waited += 50) {
    if (waited > 20_000) throw new Error('no session host came up')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
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
