/**
 * Code is slow when it first runs: it is compiled then, and so are the checks of what it reads. A session host runs
 * it once beforehand, for an agent and a project that are nobody's, in a directory of its own. Whatever comes out is
 * thrown away: nothing is decided, recorded or kept by it.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import type { FactBody } from '../audit/fact.ts'
import { Journal, readJournal } from '../audit/journal.ts'
import { connectDaemon } from '../daemon/client.ts'
import { createGate } from '../gate/gate.ts'
import type { Paths } from '../lib/paths.ts'
import { makeEngines } from '../policy/engine.ts'
import { openRuntimePolicy } from '../policy/runtime.ts'
import { inspectHost, makeEtc, writeEtc } from '../runtime/system-files.ts'
import { resolveSession, type Resolved } from './resolve.ts'
import { rehearseCaller } from './host.ts'
import { sheetOf } from './show.ts'
import { LiveState } from './state.ts'
import { ActivityFold } from './summary.ts'

/** Never throws: a session that cannot be rehearsed says why when somebody starts it. @returns what went wrong. */
export async function rehearse(paths: Paths): Promise<readonly unknown[]> {
  const failures: unknown[] = []
  const dir = mkdtempSync(join(tmpdir(), 'ambit-rehearsal-'))
  const clear = (): void => rmSync(dir, { recursive: true, force: true })
  // ambitd may end meanwhile, and this process with it.
  process.once('exit', clear)
  const steps = [rehearseCaller, rehearseResolved, rehearseRecord, rehearseEtc, rehearseLink]
  for (const step of steps) {
    try {
      await step(dir, paths)
    } catch (error) {
      failures.push(error)
    }
  }
  process.off('exit', clear)
  clear()
  return failures
}

const NOBODY = { name: 'nobody', uid: 65534, gid: 65534, home: '/nonexistent', shell: '/bin/sh' }

async function rehearseResolved(dir: string, paths: Paths): Promise<void> {
  const project = join(dir, 'project')
  mkdirSync(project)
  const resolved: Resolved = resolveSession({
    argv: ['true'],
    profile: 'writer',
    project,
    workspace: null,
    runtime: null,
    accepted: true,
    summaryFile: null,
    quiet: true,
    observe: false,
    cwd: '/',
    env: { PATH: '/usr/bin:/bin', HOME: userInfo().homedir },
    paths: { ...paths, state: join(dir, 'state') },
  })
  sheetOf(resolved, false)
  const { plan } = resolved
  const gate = await createGate({
    plan,
    secrets: new Map(),
    placeholders: new Map(),
    record: () => undefined,
    barrier: () => Promise.resolve(),
    state: () => new LiveState().snapshot(),
    policy: openRuntimePolicy(plan, paths),
    upstream: { proxy: null, roots: [] },
  })
  await gate.close(0)
  makeEngines(paths, ['data.ambit.admission.decision', 'data.ambit.runtime.decision'])
}

/** One fact of each kind that every session has. */
const FACTS: readonly FactBody[] = [
  {
    k: 'session.start', user: '', uid: 0, profile: '', planDigest: '', sheetDigest: '', runtime: '',
    argv: ['true'], agent: { name: '', version: null, digest: null }, cwd: '/',
  },
  { k: 'session.enforced', controls: [{ control: 'rehearsal', state: 'fully', detail: '' }] },
  { k: 'process.launch', pid: 1, ppid: 0, path: '', digest: null, argv: ['true'], cwd: '/', truncated: false },
  { k: 'process.exit', pid: 1, code: 0 },
  { k: 'session.end', outcome: 'ended', exit: 0, reason: null },
] // biome-ignore format: a list

async function rehearseRecord(dir: string): Promise<void> {
  const journal = Journal.open(join(dir, 'rehearsal.wal'))
  for (const fact of FACTS) journal.append(fact)
  await journal.sync()
  journal.close()
  const fold = new ActivityFold()
  for (const { fact } of readJournal(journal.path)) fold.add(fact)
  fold.result()
}

function rehearseEtc(dir: string): void {
  const content = { host: inspectHost(), person: NOBODY, hostname: 'rehearsal', caPem: '', extra: {} }
  makeEtc(join(dir, 'etc'), content.host)
  writeEtc(join(dir, 'etc'), content)
}

async function rehearseLink(_dir: string, paths: Paths): Promise<void> {
  const daemon = await connectDaemon(paths, { start: false })
  await daemon.call('status', {})
  daemon.close()
}
