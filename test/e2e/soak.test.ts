/** Two minutes of sessions; twenty with `./dev test --all` (soak.all.test.ts). */
import { soakFor } from '../support/soak-case.ts'

soakFor(2 * 60_000)
