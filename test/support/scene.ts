/** Attempts that are made twice, on two stages alike: confined on one, free on the other, which is the control. */
import assert from 'node:assert/strict'
import type { Result, RunOptions, Stage, Step, Steps } from './stage.ts'

export interface Scene {
  readonly stage: Stage
  readonly inside: Steps
  /** The stage of the control. */
  readonly free: Stage
  readonly outside: Steps
}

/** Makes the attempts in a session on `stage`, and without Ambit on `free`. */
export async function play(
  [stage, free]: readonly [Stage, Stage],
  attempts: (stage: Stage) => readonly Step[],
  options: (stage: Stage) => RunOptions = () => ({}),
): Promise<Scene> {
  return {
    stage,
    free,
    inside: await stage.inside(attempts(stage), options(stage)),
    outside: await free.uncontrolled(attempts(free), options(free)),
  }
}

/** Asserts a refusal inside and its success outside, and returns the code. */
export function refused({ inside, outside }: Scene, name: string, codes: RegExp): string {
  const control = outside.result(name)
  assert.ok(control.ok, `control: ${name} works without Ambit: ${control.text}`)
  return denied(inside.result(name), name, codes)
}

/** Asserts that one attempt failed with one of `codes`, and returns it. */
export function denied(result: Result, name: string, codes: RegExp): string {
  assert.equal(result.ok, false, `${name} succeeded: ${String(result.value)}`)
  assert.match(result.error ?? '', codes, `${name}: ${result.text}`)
  return result.error ?? ''
}
