/** A stage whose sessions run in microVMs, whatever runtime the suite runs on. */
import { placeImage } from './place-image.ts'
import { Stage, type StageOptions } from './stage.ts'
import type { As } from './users.ts'

export { placeImage } from './place-image.ts'

export const ISOLATION = {
  runtime: 'microvm',
  limits: 'partly',
  memory: '512MiB',
  processes: 128,
  wallclock: '3m',
}

export async function machineStage(as: As, options: StageOptions = {}): Promise<Stage> {
  const stage = new Stage(as, { ...options, spec: { isolation: ISOLATION, ...options.spec } })
  await placeImage(stage)
  return stage
}
