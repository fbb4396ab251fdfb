/** Programs that crash on purpose, under limits of their choosing. */
import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import { RUNTIME } from './runtime.ts'
import { Stage } from './stage.ts'
import type { As } from './users.ts'

export const NO_CRASH = RUNTIME === 'os-sandbox' ? null : 'of os-sandbox'

/** Lowers its own limit, by each of the kernel's calls, shows it, and crashes by the name that it is given. */
const LOWER = `
import ctypes, os, resource, sys
libc = ctypes.CDLL(None)
none = (ctypes.c_uint64 * 2)(0, 0)
old = (ctypes.c_uint64 * 2)()
machine = os.uname().machine
setrlimit, prlimit = {"x86_64": (160, 302), "aarch64": (164, 261)}[machine]
print(libc.syscall(setrlimit, 4, none), libc.syscall(prlimit, 0, 4, none, None), libc.syscall(prlimit, 0, 4, none, old))
print(*resource.getrlimit(resource.RLIMIT_CORE), flush=True)
open("/proc/self/comm", "w").write(sys.argv[1])
os.kill(os.getpid(), 11)
`

/** A stage with `lower.py NAME` and shells named `NAMES`. */
export function crashStage(as: As, names: readonly string[]): Stage {
  const stage = new Stage(as, { files: { 'lower.py': LOWER } })
  for (const name of names) copyFileSync('/bin/sh', join(stage.project, name))
  stage.own()
  return stage
}
