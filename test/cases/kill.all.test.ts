/** A-01, the whole matrix: SIGKILL of each part at each step of a session's life. The quick choice is kill.test.ts. */
import { MATRIX } from '../support/kill-matrix.ts'
import { killCase } from '../support/kill-case.ts'

for (const [step, victim] of MATRIX) killCase([[step, victim]])
