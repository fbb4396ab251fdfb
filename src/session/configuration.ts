/**
 * Agent and editor configuration that a project brings: servers, hooks, tasks, instructions. A yes to a grant is a yes
 * to what these files say today, by content and not by folder: when one differs from what was accepted, the sheet says
 * which and asks again (P-12). Looked for where tools read it unasked: at the top of each root and on the
 * way to the working directory. The project's authors wrote these names and bytes.
 */
import { createHash, randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { compileGlobs } from '../lib/glob.ts'
import type { Paths } from '../lib/paths.ts'
import { readBeginning } from '../lib/small-file.ts'
import { digestOf } from '../profile/canonical.ts'
import { AGENT_CONFIGURATION, AGENT_INSTRUCTIONS } from '../profile/defaults.ts'
import type { Plan } from '../profile/plan.ts'
import type { ConfigurationFile } from '../profile/sheet-configuration.ts'
import { within } from '../profile/territory.ts'

export interface Configuration {
  readonly files: readonly ConfigurationFile[]
  /** Over names and contents. */
  readonly digest: string
}

/** Files read, and bytes of one and of all. What is beyond counts by what the kernel says of it, its last change first. */
const MOST_FILES = 2000
const MOST_BYTES = 4 << 20
const MOST_READ = 128 << 20
/** Names looked at. Where there are more nobody can have accepted them all: a grant counts as changed, each time. */
const MOST_NAMES = 20_000

/** Levels below a name; what lies deeper counts as changed, too. */
const MOST_DEPTH = 40

const NAMES = [...AGENT_CONFIGURATION, ...AGENT_INSTRUCTIONS]
const isAtTop = compileGlobs(NAMES.filter((name) => !name.includes('/')))
const DEEPER = NAMES.filter((name) => name.includes('/'))

/** What the plan's roots hold, compared with what this user accepted last for this project. */
export function configurationOf(plan: Plan, cwd: string, project: string, paths: Paths): Configuration {
  const look = new Look()
  // The agent's own to fill; whoever begins there begins with what an earlier session left.
  for (const root of plan.roots)
    if ((root.variable !== 'workspace' && root.variable !== 'mirror') || within(cwd, root.path))
      for (const base of wayTo(root.path, cwd)) for (const path of topOf(base)) look.collect(path)
  const { found } = look
  const accepted = acceptedFor(project, paths)
  const files = [...found].map(
    ([path, sha256]): ConfigurationFile => ({
      path,
      sha256,
      state: stateOf(accepted?.[path], sha256, accepted),
    }),
  )
  const gone = Object.entries(accepted ?? {}).filter(([path]) => !found.has(path) && !isThere(path))
  const removed = gone.map(([path, sha256]): ConfigurationFile => ({ path, sha256, state: 'removed' }))
  return {
    files: [...files, ...removed].toSorted((a, b) => (a.path < b.path ? -1 : 1)),
    digest: digestOf(Object.fromEntries(found)),
  }
}

/** Remembers that a person accepted this. Never for `--yes`: nobody looked. */
export function rememberConfiguration(configuration: Configuration, project: string, paths: Paths): void {
  const accepted = configuration.files.filter(({ state }) => state !== 'removed')
  const file = acceptedFile(project, paths)
  // What lies on the way to another working directory stays accepted.
  const elsewhere = Object.entries(acceptedFor(project, paths) ?? {}).filter(([path]) => isThere(path))
  makeDir(dirname(file))
  const now = accepted.map(({ path, sha256 }) => [path, sha256] as const)
  const text = JSON.stringify(Object.fromEntries([...elsewhere, ...now]))
  fs.writeFileSync(`${file}.new`, text, { mode: 0o600 })
  fs.renameSync(`${file}.new`, file)
}

const isThere = (path: string): boolean => fs.lstatSync(path, { throwIfNoEntry: false }) !== undefined

type Accepted = Readonly<Record<string, string>>

function stateOf(
  before: string | undefined,
  now: string,
  accepted: Accepted | null,
): ConfigurationFile['state'] {
  if (accepted === null) return 'first'
  if (before === undefined) return 'added'
  return before === now ? 'same' : 'changed'
}

const acceptedFile = (project: string, paths: Paths): string =>
  join(
    paths.state,
    'accepted',
    `configuration-${createHash('sha256').update(project).digest('hex').slice(0, 32)}.json`,
  )

/** Null when nothing was accepted yet, or what was cannot be read: then everything is new. */
function acceptedFor(project: string, paths: Paths): Accepted | null {
  try {
    const value: unknown = JSON.parse(fs.readFileSync(acceptedFile(project, paths), 'utf8'))
    return typeof value === 'object' && value !== null ? (value as Accepted) : null
  } catch {
    return null
  }
}

/** `root` and the directories from it to `cwd`. */
function wayTo(root: string, cwd: string): string[] {
  if (!within(cwd, root)) return [root]
  const names = relative(root, cwd).split('/').filter(Boolean)
  return [root, ...names.map((_, index) => join(root, ...names.slice(0, index + 1)))]
}

function topOf(base: string): string[] {
  const names = namesIn(base)
  const top = names ? names.filter(isAtTop) : NAMES.filter((name) => !/[/*]/.test(name))
  return [...top, ...DEEPER].map((name) => join(base, name))
}

/**
 * Null where names can be used but not listed; nothing where neither can be done, for the session cannot either. A name
 * that is not UTF-8 comes with what stands for its bytes.
 */
function namesIn(directory: string): string[] | null {
  try {
    return fs.readdirSync(directory)
  } catch {
    return isSearchable(directory) ? null : []
  }
}

function isSearchable(directory: string): boolean {
  try {
    fs.accessSync(directory, fs.constants.X_OK)
    return isDirectory(directory)
  } catch {
    return false
  }
}

/** What no digest of accepted content is: nobody saw what is there. */
const unseen = (): string => randomBytes(32).toString('hex')

/** One look through what a project brings, bounded in time and memory whatever lies there. */
class Look {
  /** Path → digest. */
  readonly found = new Map<string, string>()
  #names = 0
  #left = MOST_READ

  /** `above`: directories on the way here; links may make rings. */
  collect(path: string, above: readonly string[] = []): void {
    const stat = statOf(path, fs.lstatSync)
    if (this.#names > MOST_NAMES) return
    if (!stat) {
      // A name whose bytes are no text cannot be looked at by it, but the agent's shell finds it by a pattern.
      if (path.includes('\ufffd')) this.found.set(path, unseen())
      return
    }
    if (++this.#names > MOST_NAMES || above.length > MOST_DEPTH) {
      this.found.set(path, unseen())
      return
    }
    // A link to a directory counts as a link, and what is behind it counts too.
    if (!stat.isDirectory()) this.found.set(path, this.#digestAt(path, stat))
    const there = stat.isDirectory() ? stat : statOf(path, fs.statSync)
    if (!there?.isDirectory()) return
    const here = `${there.dev} ${there.ino}`
    if (above.includes(here)) return
    const names = namesIn(path)
    if (names === null) this.found.set(path, unseen())
    for (const name of names?.toSorted() ?? []) this.collect(join(path, name), [...above, here])
  }

  /** Digest of the content; of a link, of where it leads and of what is there. Never waits for a FIFO. */
  #digestAt(path: string, stat: fs.BigIntStats): string {
    const hash = createHash('sha256')
    if (stat.isSymbolicLink()) hash.update(`link ${fs.readlinkSync(path)}\0`)
    const there = stat.isSymbolicLink() ? statOf(path, fs.statSync) : stat
    if (there?.isFile()) {
      const most = this.found.size < MOST_FILES ? Math.min(MOST_BYTES, this.#left) : 0
      const bytes = readBeginning(path, most)
      this.#left -= bytes?.length ?? 0
      hash.update(bytes ?? 'unreadable')
      // The time of change cannot be set back.
      if (there.size > most) hash.update(`\0${there.size} ${there.ino} ${there.ctimeNs}`)
    }
    return hash.digest('hex')
  }
}

const isDirectory = (path: string): boolean => statOf(path, fs.statSync)?.isDirectory() ?? false

/** Null for what is not there, or where links lead that the user may not go: then the session may not either. */
function statOf(path: string, stat: typeof fs.statSync): fs.BigIntStats | null {
  try {
    return stat(path, { bigint: true })
  } catch {
    return null
  }
}
