/**
 * Files that some tool outside the session runs or obeys without being asked: a change to them is a change of
 * programs (P-01 to P-13). Shown first in a review.
 */
import { compileGlobs } from '../lib/glob.ts'
import { DEFAULT_PROTECT, DEFAULT_REVIEW, INSTALLED_FREE } from '../profile/defaults.ts'

/**
 * What a profile protects or puts under review by default, and what it leaves free for the agent's work. Installed
 * packages too: that an install may write them makes what they run no less of a program.
 */
const EXECUTABLE_CONFIG: readonly string[] = [
  ...[...DEFAULT_PROTECT, ...DEFAULT_REVIEW].filter((glob) => !INSTALLED_FREE.includes(glob)),
  // Shells and login (P-01, P-09)
  '**/cron.d/**',
  // git (P-02)
  '**/.config/git/**',
  '**/.git/**/rebase-merge/**',
  '**/.lefthook*',
  '**/lefthook*.yml',
  // Agents, their servers and instructions (P-03, P-05 to P-07, P-11)
  '**/AGENTS.override.md',
  '**/.aider*',
  '**/opencode.json*',
  // Editors (P-04)
  '**/.nvim.lua',
  '**/.emacs',
  '**/.emacs.d/**',
  // Build and package scripts (P-08)
  '**/.yarnrc*',
  '**/.pnpmfile.*',
  '**/*.mk',
  '**/Taskfile.y*ml',
  '**/*.gemspec',
  '**/Cargo.toml',
  '**/.cargo/**',
  '**/*.gradle',
  '**/*.gradle.kts',
  '**/gradlew*',
  '**/gradle/wrapper/**',
  '**/mvnw*',
  '**/.direnv/**',
  '**/Dockerfile*',
  '**/docker-compose*.y*ml',
  '**/compose*.y*ml',
  '**/*.nix',
  // Continuous integration (P-07)
  '**/.woodpecker*',
  // Secrets that steer tools (P-06)
  '**/.env',
  '**/.env.*',
  '!**/.env.example',
]

const listed = compileGlobs(EXECUTABLE_CONFIG)

/** Names deeper than anybody works in; each would be compared at every level, with every pattern. */
const DEEP = /(?:\/[^/]*){200}/

/**
 * True for a path, relative to its root, whose file other programs run or obey, and for a very deep one. A `.git` that
 * is no directory points to another one, with hooks and configuration of its own (F-14).
 */
export const isExecutableConfig = (relativePath: string, type: string): boolean =>
  DEEP.test(relativePath) || listed(relativePath) || (type !== 'dir' && /(^|\/)\.git$/i.test(relativePath))
