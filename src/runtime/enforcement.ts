import type { Control } from '../audit/fact.ts'
import { AmbitError } from '../lib/errors.ts'
import type { Plan } from '../profile/plan.ts'

/** Controls of which a profile may accept that they hold only in part: `isolation.limits: partly`. */
const LIMITS = new Set(['memory-limit', 'process-limit', 'cpu-limit'])

/** Controls without which there is no session: a runtime that does not report one has not enforced it. */
const REQUIRED = ['network-namespace', 'no-new-privs', 'seccomp', 'landlock'] as const

/**
 * Refuses to go on when the runtime enforces less than the profile asks for.
 *
 * @throws AmbitError ERR_RUNTIME_NOT_ENFORCED that names every control that falls short.
 */
export function requireEnforced(controls: readonly Control[], isolation: Plan['isolation']): void {
  const short = controls
    .filter((control) => !suffices(control, isolation))
    .map(
      (control) =>
        `${control.control} is ${control.state === 'not' ? 'not' : 'only partly'} enforced (${control.detail})`,
    )
  const missing = REQUIRED.filter((name) => !controls.some((control) => control.control === name)).map(
    (name) => `${name} was not reported`,
  )
  const reasons = [...short, ...missing]
  if (reasons.length === 0) return
  throw new AmbitError(
    'ERR_RUNTIME_NOT_ENFORCED',
    'runtime',
    reasons.join('; '),
    'ambit doctor says what this machine lacks',
  )
}

function suffices(control: Control, isolation: Plan['isolation']): boolean {
  if (control.state === 'fully') return true
  return control.state === 'partly' && isolation.limits === 'partly' && LIMITS.has(control.control)
}
