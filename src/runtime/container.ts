import { gvisor } from './doctor/gvisor.ts'
import { inspectGvisor } from './gvisor.ts'
import { onThisSystem } from './os-sandbox.ts'
import type { Around, Ground, Runtime } from './runtime.ts'

/**
 * gVisor: the agent's kernel is the Sentry, a program of its own, inside the very namespaces of `os-sandbox`. View,
 * relay, gate and log are the same; what the guest can ask of the host's kernel is what gVisor leaves over.
 */
export const container: Runtime = {
  words: "gVisor: a program is the agent's kernel, and the host's is asked by that program alone",
  required: ['own-kernel', 'sentry-confined', 'gofer-confined', 'unix-sockets'],
  // gVisor tells of a command before it starts but does not wait until that is recorded; the record is no control.
  covered: ['exec-sensor'],
  needs: ['gVisor'],
  probe: async () => [await gvisor()],
  measured: false,
  patience: 180,
  find,
}

/**
 * Versions of gVisor until 2023 refuse a flag with which `ls` and `stat` look at files: native/launch/compat/lib.rs. By
 * a file, since agents (Codex is one) take LD_PRELOAD out of their environment.
 */
const PRELOAD = { '/etc/ld.so.preload': '/.ambit/compat.so\n' }

async function find({ paths }: Around): Promise<Ground> {
  return {
    ...onThisSystem({ kind: 'gvisor', platform: null, ...(await inspectGvisor(paths)) }),
    show: (found) => ({ ...found, etc: { ...found.etc, ...PRELOAD } }),
  }
}
