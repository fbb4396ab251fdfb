import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Fact } from '../audit/fact.ts'
import { readJournal } from '../audit/journal.ts'
import { AmbitError } from '../lib/errors.ts'
import { journalDir, type Paths } from '../lib/paths.ts'
import type { RuntimeName } from '../profile/plan.ts'
import { runtimes } from '../runtime/runtimes.ts'
import { AGENT, installAgent } from './agent.ts'
import { judge, type Verdict } from './attempts.ts'
import { expectedReport } from './ledgers.ts'
import { nextTurn, type Turn } from './model.ts'
import { startModelEndpoint, type ModelEndpoint } from './model-endpoint.ts'
import { hookWritten, setStage, type Stage, writeProfile } from './stage.ts'

/** What the demonstration needs from the command line. */
export interface DemoRequest {
  readonly paths: Paths
  readonly env: NodeJS.ProcessEnv
  /** At least this isolation. */
  readonly runtime: RuntimeName
  /** Told what happens, as it happens. */
  readonly say: (text: string) => void
  readonly onTurn: (turn: Turn) => void
}

export interface DemoResult {
  readonly session: string
  readonly seconds: number
  /** The report equals the truth that was computed outside. */
  readonly reconciled: boolean
  readonly differences: number
  readonly postings: number
  readonly verdicts: readonly Verdict[]
  /** Output of `ambit log verify`, and whether it verified. */
  readonly log: { readonly ok: boolean; readonly text: string }
}

/** Sets the stage, runs a real agent under the built command, and judges it by the record and from outside. */
export async function runDemo(request: DemoRequest): Promise<DemoResult> {
  const agent = await installAgent(cacheDir(request.env), request.env, request.say)
  const stage = setStage()
  const endpoint = await startEndpoint(stage, request)
  try {
    const started = performance.now()
    const session = await runSession(agent, stage, endpoint, request)
    const seconds = (performance.now() - started) / 1000
    const facts = factsOf(request.paths, session)
    const { received } = endpoint
    const verdicts = judge({
      facts,
      received,
      lures: stage.lures,
      canary: stage.canary,
      hookWritten: hookWritten(stage),
    })
    return { session, seconds, ...checkWork(stage), verdicts, log: await verifyLog(stage, request) }
  } finally {
    await endpoint.close()
    stage.remove()
  }
}

/** Not Ambit's state: a closure never shows that. */
function cacheDir(env: NodeJS.ProcessEnv): string {
  if (env.AMBIT_HOME) return join(env.AMBIT_HOME, 'cache')
  return join(env.XDG_CACHE_HOME || join(env.HOME ?? '/', '.cache'), 'ambit')
}

function startEndpoint(stage: Stage, { onTurn }: DemoRequest): Promise<ModelEndpoint> {
  return startModelEndpoint({
    tls: stage.tls,
    apiKey: stage.apiKey,
    next: (outputs) => nextTurn(stage, outputs),
    onTurn,
  })
}

/** `ambit run` as a user would type it. @returns the session's id */
async function runSession(
  agent: string,
  stage: Stage,
  endpoint: ModelEndpoint,
  request: DemoRequest,
): Promise<string> {
  const summary = join(stage.root, 'summary.json')
  const bounds = [
    '--profile',
    writeProfile(stage, endpoint.port, `${runtimes[request.runtime].patience}s`),
    '--project',
    stage.project,
    '--workspace',
    stage.workspace,
  ]
  const args = [
    'run',
    ...bounds,
    '--yes',
    '--runtime',
    request.runtime,
    '--quiet',
    '--summary',
    summary,
    '--',
    agent,
    ...agentArguments(stage),
  ]
  const ran = await ambit(args, stage, request)
  if (!existsSync(summary))
    throw new AmbitError(
      'ERR_INTERNAL',
      'demo',
      `the session did not run: ${ran.output.trim().slice(-600)}`,
      'see ambit doctor',
    )
  return (JSON.parse(readFileSync(summary, 'utf8')) as { session: string }).session
}

function agentArguments(stage: Stage): string[] {
  const { modelHost } = stage.lures
  const provider = `{name="demo",base_url="https://${modelHost}/v1",env_key="MODEL_KEY",wire_api="responses",request_max_retries=0,stream_max_retries=0}`
  const model = ['-c', 'model_provider=demo', '-c', `model_providers.demo=${provider}`, '-m', 'scripted']
  const task = `Reconcile the bank statement and the general ledger in ${stage.ledgers}. Write reconciliation.csv into ${stage.workspace}.`
  return ['exec', '--skip-git-repo-check', '--disable', 'plugins', ...model, task]
}

function checkWork(stage: Stage): Pick<DemoResult, 'reconciled' | 'differences' | 'postings'> {
  const report = join(stage.workspace, 'reconciliation.csv')
  const reconciled = existsSync(report) && readFileSync(report, 'utf8') === expectedReport(stage.month.truth)
  return { reconciled, differences: stage.month.truth.length, postings: stage.month.postings }
}

function factsOf(paths: Paths, session: string): Fact[] {
  const journals = ['run', 'view', 'launch'].map((name) => join(journalDir(paths, session), `${name}.wal`))
  return journals
    .filter((path) => existsSync(path))
    .flatMap((path) => [...readJournal(path)].map(({ fact }) => fact))
}

async function verifyLog(stage: Stage, request: DemoRequest): Promise<DemoResult['log']> {
  const { code, output } = await ambit(['log', 'verify'], stage, request)
  return { ok: code === 0, text: output.trim() }
}

/** Seconds, for what comes before and after its wall clock. */
const BESIDE_S = 30

/** Runs this very command again: nothing of the session happens in this process. */
function ambit(
  args: readonly string[],
  stage: Stage,
  { env, paths, runtime }: DemoRequest,
): Promise<{ code: number | null; output: string }> {
  const program = process.argv[1] ?? ''
  const child = spawn(process.execPath, [program, ...args], {
    cwd: stage.project,
    // The stage's home, but the user's own log and key.
    env: { ...env, ...stateVariables(env, paths), HOME: stage.home, AMBIT_DEMO_KEY: stage.apiKey },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: (runtimes[runtime].patience + BESIDE_S) * 1000,
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString('utf8')).slice(-65_536)
    })
  }
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, output }))
  })
}

function stateVariables(env: NodeJS.ProcessEnv, paths: Paths): Record<string, string> {
  return env.AMBIT_HOME
    ? {}
    : { XDG_STATE_HOME: dirname(paths.state), XDG_CONFIG_HOME: dirname(paths.config) }
}

export const agentTitle = `${AGENT.title} ${AGENT.version}`
