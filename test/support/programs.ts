/** Programs of the machine that tests start, and why a test cannot run without one. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

const found = (program: string): boolean =>
  (process.env.PATH ?? '').split(':').some((dir) => existsSync(join(dir, program)))

/** The reason to skip a test of these programs, or null when all are there. */
export function withoutPrograms(...programs: readonly string[]): string | null {
  const absent = programs.filter((program) => !found(program))
  return absent.length > 0 ? `not installed: ${absent.join(', ')}` : null
}
