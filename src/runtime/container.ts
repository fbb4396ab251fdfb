import { inspectGvisor } from './gvisor.ts'
import { osSandbox } from './os-sandbox.ts'
import type { Runtime } from './runtime.ts'

/**
 * gVisor: the agent's kernel is the Sentry, a program of its own, inside the very namespaces of `os-sandbox`. View,
 * relay, gate and log are the same; what the guest can ask of the host's kernel is what gVisor leaves over.
 */
export const container: Runtime = {
  name: 'container',
  cell: async ({ paths }) => ({ kind: 'gvisor', platform: null, ...(await inspectGvisor(paths)) }),
  open: (spec, specPath, start) => osSandbox.open(spec, specPath, start),
}
