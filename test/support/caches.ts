/**
 * Things from package registries that end-to-end tests need, fetched once into `.build/test-cache`. A test file
 * imports this before support/lab.ts: afterwards there is no network but the lab's.
 */
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, delimiter, join } from 'node:path'
import { shelf } from './product.ts'

const cache = join(import.meta.dirname, '../../.build/test-cache')

/** Exact versions: a test of an agent is a test of that agent. */
const AGENTS = { pi: '@mariozechner/pi-coding-agent@0.73.1', codex: '@openai/codex@0.169.0' } as const
const REQUESTS = 'requests==2.32.3'
const GRPC = '@grpc/grpc-js@1.14.7'
/** Of the module's branch `go`, which holds what is generated: nothing else builds without gVisor's own tools. */
const GVISOR = 'gvisor.dev/gvisor/runsc@v0.0.0-20260905035102-160fafc42237'

/** Directory with `node_modules/.bin/{pi,codex}`, or the reason why there is none. */
export const agents: string | Error = fetchPackages('agents', Object.values(AGENTS))

/** Directory with `node_modules/@grpc/grpc-js`, or the reason why there is none. Asked for by the one test of it. */
export const grpc = (): string | Error => fetchPackages('grpc', [GRPC])

/** Directory with a `runsc` newer than Debian's, or the reason why there is none: a minute and a half on first use. */
export const newerRunsc = (): string | Error =>
  fetchOnce('runsc', GVISOR, (dir) => {
    const env = { ...process.env, CGO_ENABLED: '0', GOFLAGS: '-p=1 -mod=mod' }
    const go = (...args: readonly string[]): unknown =>
      execFileSync('go', args, { cwd: dir, env, stdio: ['ignore', 'ignore', 'pipe'] })
    go('mod', 'init', 'runsc')
    go('get', GVISOR)
    go('build', '-ldflags=-s -w', '-o', 'runsc', GVISOR.split('@')[0] ?? '')
  })

function fetchPackages(name: string, packages: readonly string[]): string | Error {
  return fetchOnce(name, packages.join(' '), (dir) =>
    execFileSync(
      'npm',
      // Without a network the tests of it skip at once, rather than after minutes of retries.
      [
        'install',
        '--no-audit',
        '--no-fund',
        '--loglevel=error',
        '--fetch-retries=0',
        '--prefix',
        dir,
        ...packages,
      ],
      {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: { ...process.env, PATH: `${join(process.execPath, '..')}${delimiter}${process.env.PATH}` },
      },
    ),
  )
}

/** Directory for PYTHONPATH with `requests`, or the reason why there is none. */
export const pythonRequests: string | Error = fetchOnce('python', REQUESTS, (dir) =>
  execFileSync('/usr/bin/python3', ['-m', 'pip', 'install', '--quiet', '--target', dir, REQUESTS], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PIP_ROOT_USER_ACTION: 'ignore' },
  }),
)

/** Fetches aside and renames, so that a broken download is never taken for a whole one. */
function fetchOnce(name: string, what: string, fetch: (dir: string) => unknown): string | Error {
  const dir = join(cache, `${name}-${what.replaceAll(/[^a-z0-9.]+/gi, '-')}`)
  if (existsSync(dir)) return dir
  const aside = `${dir}.${process.pid}`
  try {
    mkdirSync(aside, { recursive: true })
    writeFileSync(join(aside, 'package.json'), '{"private":true}')
    fetch(aside)
    renameSync(aside, dir)
    return dir
  } catch (error) {
    rmSync(aside, { recursive: true, force: true })
    if (existsSync(dir)) return dir
    return new Error(`${what} could not be fetched: ${(error as Error).message.slice(0, 300)}`)
  }
}

/** Copies a fetched directory to where the user of a stage can read it. */
export function install(source: string | Error, target: string): string {
  if (source instanceof Error) throw source
  cpSync(source, target, { recursive: true, verbatimSymlinks: true })
  return target
}

/** The same, once for all stages: half a gigabyte of agents is not copied four times. */
export function installShared(source: string | Error): string {
  if (source instanceof Error) throw source
  const target = join(shelf, basename(source))
  if (existsSync(target)) return target
  const aside = install(source, `${target}.${process.pid}`)
  execFileSync('chmod', ['-R', 'a+rX', aside])
  try {
    renameSync(aside, target)
  } catch (error) {
    // Of two processes that copy at once, one wins.
    rmSync(aside, { recursive: true, force: true })
    if (!existsSync(target)) throw error
  }
  return target
}
