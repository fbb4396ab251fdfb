import type { RuntimeName } from '../profile/plan.ts'
import { container } from './container.ts'
import { microvm } from './microvm.ts'
import { osSandbox } from './os-sandbox.ts'
import type { Runtime } from './runtime.ts'

/** All there are, by the name that a profile gives. Everything that only one of them needs stands in its own file. */
export const runtimes: Readonly<Record<RuntimeName, Runtime>> = {
  'os-sandbox': osSandbox,
  container,
  microvm,
}
