import type { Control } from '../audit/fact.ts'
import { AmbitError } from '../lib/errors.ts'
import type { Plan } from '../profile/plan.ts'
import type { Runtime } from './runtime.ts'

/** What every runtime has to enforce: one that does not report a control has not enforced it. */
export const REQUIRED: readonly string[] = [
  'user-namespace', 'mount-namespace', 'pid-namespace', 'network-namespace', 'ipc-namespace', 'no-new-privileges', 'no-capabilities',
  'system-calls', 'read-only-root', 'exec-sensor', 'process-limit', 'memory-limit', 'cpu-limit', 'disk-limit',
] // biome-ignore format: a list of names

/** `memory-limit` and the like: a profile may accept that they hold only in part. */
const LIMIT = /-limits?$|^limits$/

/**
 * Refuses to go on when the runtime enforces less than the profile asks for.
 *
 * @throws AmbitError ERR_RUNTIME_NOT_ENFORCED that names every control that falls short.
 */
export function requireEnforced(
  { required, covered }: Pick<Runtime, 'required' | 'covered'>,
  controls: readonly Control[],
  isolation: Plan['isolation'],
): void {
  const short = controls
    .filter((control) => !suffices(control, covered, isolation))
    .map(
      (control) =>
        `${control.control} is ${control.state === 'not' ? 'not' : 'only partly'} enforced (${control.detail})`,
    )
  const missing = [...REQUIRED, ...required]
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

function suffices(control: Control, covered: readonly string[], isolation: Plan['isolation']): boolean {
  if (control.state !== 'partly') return control.state === 'fully'
  return covered.includes(control.control) || (isolation.limits === 'partly' && LIMIT.test(control.control))
}
