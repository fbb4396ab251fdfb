import { AmbitError } from '../lib/errors.ts'
import { osSandbox } from './os-sandbox.ts'
import type { Runtime } from './runtime.ts'
import { installHint, lookForTool } from './tools.ts'

/**
 * gVisor: the agent's kernel is the Sentry, a program of its own, inside the very namespaces of `os-sandbox`. View,
 * relay, gate and log are the same; what the guest can ask of the host's kernel is what gVisor leaves over.
 */
export const container: Runtime = {
  name: 'container',
  cell: () => ({ kind: 'gvisor', runsc: findRunsc(), platform: null }),
  open: (spec, specPath, start) => osSandbox.open(spec, specPath, start),
}

function findRunsc(): string {
  const path = lookForTool('runsc')
  if (path) return path
  throw new AmbitError(
    'ERR_RUNTIME_MISSING',
    'runtime container',
    'runsc is not installed',
    installHint('runsc'),
  )
}
