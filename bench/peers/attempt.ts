import { messageOf } from '../../src/lib/errors.ts'
import type { Contender } from '../stats.ts'

/** The contender that `make` prepares, or one that fails with the reason why it could not be had. */
export async function attempt(name: string, make: () => Promise<Contender>): Promise<Contender> {
  try {
    return await make()
  } catch (error) {
    const reason = messageOf(error)
    return { name, measure: () => Promise.reject(new Error(reason)) }
  }
}
