import type { RuntimeName } from '../profile/plan.ts'
import type { Paths } from '../lib/paths.ts'

/** What a person asked for with `ambit run` (or `ambit explain`, which stops after the sheet). */
export interface SessionRequest {
  readonly argv: readonly string[]
  /** Profile name or path of a profile file. */
  readonly profile: string
  /** Absolute. */
  readonly project: string
  readonly workspace: string | null
  /** Raises the profile's minimum. */
  readonly runtime: RuntimeName | null
  /** The sheet is accepted on the command line. */
  readonly accepted: boolean
  readonly summaryFile: string | null
  readonly quiet: boolean
  /** Draft the profile that the run would have needed, at its end. Nothing more is allowed meanwhile. */
  readonly observe: boolean
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
  readonly paths: Paths
}
