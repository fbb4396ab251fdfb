/** Runs one scenario through test/launch/drive.py against the built launcher. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { LaunchMount } from '../../src/runtime/launch-spec.ts'

interface Step {
  /** Acts when the agent has written this. */
  readonly after: string
  readonly order?: object
  readonly signal?: number
  readonly type?: string
  readonly die?: true
}

export interface Scenario {
  readonly argv: readonly string[]
  /** Host uid of the caller; the test's own when absent. */
  readonly uid?: number
  readonly host?: { readonly uid: number; readonly gid: number }
  readonly mounts?: readonly LaunchMount[]
  readonly env?: Readonly<Record<string, string>>
  readonly terminal?: boolean
  readonly limits?: Readonly<Record<string, number>>
  readonly feed?: readonly Step[]
  /** Fields put over the spec as they are. */
  readonly spec?: object
}

interface Fact {
  readonly k: string
  readonly pid?: number
  readonly path?: string
  readonly argv?: readonly string[]
  readonly digest?: string | null
  readonly code?: number | null
}

export interface Result {
  readonly events: readonly {
    readonly ev: string
    readonly code?: number
    readonly why?: string
    readonly controls?: readonly { control: string; state: string }[]
  }[]
  readonly output: string
  readonly errors: string
  readonly descriptors: number
  readonly restored: boolean
  /** Of the launcher or a process that it waited for. */
  readonly peakKiB: number
  readonly facts: readonly Fact[]
}

export const isRoot = process.getuid?.() === 0
/** An ordinary caller: the test's own uid, or a number that nobody has when the test is root. */
export const ordinary = isRoot ? { uid: 47_101 } : {}
/** What root's agents run as. */
export const dedicated = { host: { uid: 47_102, gid: 47_102 } }

const launcher = publicCopy()

/** Where any uid can reach it. */
function publicCopy(): string {
  const directory = mkdtempSync(join(tmpdir(), 'ambit-launch-bin-'))
  // Drivers keep their files here, too, under whatever uid.
  chmodSync(directory, 0o1777)
  const copy = join(directory, 'ambit-launch')
  copyFileSync(new URL('../../.build/bin/ambit-launch', import.meta.url), copy)
  chmodSync(copy, 0o755)
  process.once('exit', () => rmSync(directory, { recursive: true }))
  return copy
}

const find = (name: string): string =>
  ['/usr/bin', '/usr/sbin', '/sbin', '/bin'].map((place) => join(place, name)).find(existsSync) ?? name

export function drive(scenario: Scenario): Result {
  const driver = new URL('drive.py', import.meta.url)
  const tools = { bwrap: find('bwrap') }
  const input = JSON.stringify({ launch: launcher, tools, ...scenario })
  const done = spawnSync('python3', ['-c', READ_DRIVER, driver.pathname], {
    input,
    encoding: 'utf8',
    env: { ...process.env, TMPDIR: dirname(launcher) },
    timeout: 60_000,
    maxBuffer: 64 << 20,
  })
  if (scenario.feed?.some((step) => step.die)) return EMPTY
  if (done.status !== 0) throw new Error(`drive.py: ${done.stderr}`)
  return JSON.parse(done.stdout) as Result
}

/** The file is read before the uid changes. */
const READ_DRIVER = 'import sys; exec(compile(open(sys.argv[1]).read(), "drive.py", "exec"))'
const EMPTY: Result = {
  events: [],
  output: '',
  errors: '',
  descriptors: 0,
  restored: true,
  peakKiB: 0,
  facts: [],
}

/** A shell command line inside, as an ordinary caller's session. */
export const shell = (line: string, more: Partial<Scenario> = {}): Result =>
  drive({ argv: ['sh', '-c', line], ...ordinary, ...more })

export const last = (result: Result): Result['events'][number] | undefined => result.events.at(-1)
