/** The runtime that the sessions of a test run have: `./dev test --runtime R` is the same suite on another one. */
import { existsSync } from 'node:fs'
import { type RuntimeName, RUNTIMES } from '../../src/profile/plan.ts'
import { withoutPrograms } from './programs.ts'

/** Environment variable that names it; set by test/run.ts. */
export const RUNTIME_VARIABLE = 'AMBIT_TEST_RUNTIME'

export const RUNTIME: RuntimeName = parseRuntime(process.env[RUNTIME_VARIABLE] ?? 'os-sandbox')

/** How much longer a command may take than on the host's own kernel before a test gives it up. */
export const PATIENCE: number = { 'os-sandbox': 1, container: 2, microvm: 4 }[RUNTIME]

/** @throws TypeError with the names that there are. */
export function parseRuntime(name: string): RuntimeName {
  const runtime = RUNTIMES.find((one) => one === name)
  if (runtime) return runtime
  throw new TypeError(`no runtime is named ${name}: it is one of ${RUNTIMES.join(', ')}`)
}

/** Why sessions of a runtime cannot be tested on this machine, or null. */
export function withoutRuntime(runtime: RuntimeName): string | null {
  if (runtime === 'container') return withoutPrograms('runsc')
  if (runtime === 'os-sandbox') return null
  if (process.arch !== 'x64') return 'the microvm machine is x86-64 only'
  const missing = withoutPrograms('qemu-system-x86_64', 'mkfs.erofs', 'veritysetup', 'swtpm', 'apt-get')
  return missing ?? (existsSync('/dev/net/tun') ? null : 'no /dev/net/tun')
}

/** The isolation of a profile that does not name another runtime itself, for the runtime of this run. */
export function onRuntime(isolation: unknown): unknown {
  const own = (isolation ?? {}) as Readonly<Record<'runtime' | 'memory' | 'wallclock', unknown>>
  const isPlain = own.runtime === undefined || own.runtime === 'os-sandbox'
  if (RUNTIME === 'os-sandbox' || !isPlain) return isolation
  // A machine has all its memory from the start, and a guest's tests need little of it.
  const memory =
    RUNTIME === 'microvm' && [undefined, '4GiB'].includes(own.memory as string) ? { memory: '512MiB' } : {}
  // The stage's own limit is no part of any case.
  const time = own.wallclock === '5m' ? { wallclock: `${5 * PATIENCE}m` } : {}
  return { ...own, ...memory, ...time, runtime: RUNTIME }
}

/** Where a session finds the explicit proxy: a machine's loopback is its own, and its cable ends in the namespace. */
export const PROXY_HOST = RUNTIME === 'microvm' ? '192.0.0.1' : '127.0.0.1'
