/** Twenty minutes of sessions. */
import { soakFor } from '../support/soak-case.ts'

soakFor(20 * 60_000)
