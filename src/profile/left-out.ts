/**
 * A root of its base that a child leaves out stays as one where nothing is seen. Which root lies in which is known only
 * on the machine, lists are relative to their root and `!` re-admits: whether the rules of a root around it are as
 * narrow cannot be told from the text.
 */
import type { FileEntry } from './schema.ts'

const EVERYTHING = '**'

/** What is left of a root that is left out; its label stays a duty of the roots within it. */
export const leftOut = ({ path, label }: FileEntry): FileEntry => ({
  path,
  access: 'read',
  ...(label === undefined ? {} : { label }),
  hide: [EVERYTHING],
})

/** True where nothing beneath the root is seen. */
export const hidesAll = (hide: readonly string[] = []): boolean =>
  hide.lastIndexOf(EVERYTHING) > hide.findLastIndex((glob) => glob.startsWith('!'))
