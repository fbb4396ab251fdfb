import type { Control } from '../audit/fact.ts'
import { AmbitError } from '../lib/errors.ts'
import type { Plan, RuntimeName } from '../profile/plan.ts'

/** What every runtime has to enforce. */
const COMMON = [
  'user-namespace', 'mount-namespace', 'pid-namespace', 'network-namespace', 'ipc-namespace', 'no-new-privileges', 'no-capabilities',
  'system-calls', 'read-only-root', 'exec-sensor', 'process-limit', 'memory-limit', 'cpu-limit', 'disk-limit',
] as const // biome-ignore format: a list of names

/** Controls without which there is no session: a runtime that does not report one has not enforced it. */
export const REQUIRED: Readonly<Record<RuntimeName, readonly string[]>> = {
  'os-sandbox': [...COMMON, 'landlock'],
  container: [...COMMON, 'own-kernel', 'sentry-confined', 'gofer-confined', 'unix-sockets'],
  microvm: [...COMMON, 'landlock', 'own-kernel', 'measured-start'],
}

/** `memory-limit` and the like: a profile may accept that they hold only in part. */
const LIMIT = /-limits?$|^limits$/

/**
 * What may hold only in part without weakening what a session promises.
 *
 * Sockets under a plain mount are out of reach only from Landlock ABI 9. Below it this part is covered otherwise: the
 * view hands out no socket, /run and /tmp are empty, and a closure or root with a bound socket is not mounted.
 * gVisor tells of a command before it starts but does not wait until that is recorded; the record is no control.
 * In a machine nobody is there but the agent whom a lock of the guest's own kernel would keep it from.
 */
const COVERED: Readonly<Record<RuntimeName, readonly string[]>> = {
  'os-sandbox': ['unix-sockets'],
  container: ['exec-sensor'],
  microvm: ['unix-sockets', 'guest-landlock', 'guest-unix-sockets'],
}

/**
 * Refuses to go on when the runtime enforces less than the profile asks for.
 *
 * @throws AmbitError ERR_RUNTIME_NOT_ENFORCED that names every control that falls short.
 */
export function requireEnforced(
  runtime: RuntimeName,
  controls: readonly Control[],
  isolation: Plan['isolation'],
): void {
  const short = controls
    .filter((control) => !suffices(runtime, control, isolation))
    .map(
      (control) =>
        `${control.control} is ${control.state === 'not' ? 'not' : 'only partly'} enforced (${control.detail})`,
    )
  const missing = REQUIRED[runtime]
    .filter((name) => !controls.some((control) => control.control === name))
    .map((name) => `${name} was not reported`)
  const reasons = [...short, ...missing]
  if (reasons.length === 0) return
  throw new AmbitError(
    'ERR_RUNTIME_NOT_ENFORCED',
    'runtime',
    reasons.join('; '),
    'ambit doctor says what this machine lacks',
  )
}

function suffices(runtime: RuntimeName, control: Control, isolation: Plan['isolation']): boolean {
  if (control.state !== 'partly') return control.state === 'fully'
  return (
    COVERED[runtime].includes(control.control) ||
    (isolation.limits === 'partly' && LIMIT.test(control.control))
  )
}
