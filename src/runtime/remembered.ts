/** What a machine was found to do by trying it, kept in `<state>/cache` until something changes that it depends on. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { makeDir } from '../lib/make-dir.ts'
import type { Paths } from '../lib/paths.ts'

/** One answer, in a file of its own. */
export interface Remembered<Answer> {
  /** The answer that was kept under this key, or null: not asked yet, something changed, or the file is torn. */
  recall(paths: Paths, key: string): Answer | null
  /** Throws what the file system says. */
  keep(paths: Paths, key: string, answer: Answer): Answer
  forget(paths: Paths): void
}

/** `name` is the file's, without its ending. */
export function remembered<Answer>(name: string, answer: z.ZodType<Answer>): Remembered<Answer> {
  const kept = z.strictObject({ key: z.string(), answer })
  const placeOf = (paths: Paths): string => join(paths.state, 'cache', `${name}.json`)
  return {
    recall(paths, key) {
      try {
        const found = kept.parse(JSON.parse(readFileSync(placeOf(paths), 'utf8')))
        return found.key === key ? found.answer : null
      } catch {
        return null
      }
    },
    keep(paths, key, answer) {
      const place = placeOf(paths)
      makeDir(dirname(place))
      const aside = `${place}.${process.pid}`
      writeFileSync(aside, JSON.stringify({ key, answer }), { mode: 0o600 })
      renameSync(aside, place)
      return answer
    },
    forget: (paths) => rmSync(placeOf(paths), { force: true }),
  }
}
