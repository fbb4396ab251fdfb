/**
 * What a profile means where it says nothing. Values stand in the profile's own notation, so that `extends` compares
 * like with like.
 *
 * The lists of names are of files that later run on the host (cases P-01 to P-13); each family says which.
 */
import type { Label } from './plan.ts'
import type { ProfileSpec } from './schema.ts'

export const DEFAULT_LABEL: Label = 'internal'
/** Of a network rule. The same as a file's, so that a profile which never mentions labels works. */
export const DEFAULT_CLEARANCE: Label = 'internal'
export const DEFAULT_PORTS: readonly number[] = [443]

/** A section with every key present. */
type Full<T> = { [K in keyof T]-?: Exclude<T[K], undefined> }
type Section<K extends keyof ProfileSpec> = Full<NonNullable<ProfileSpec[K]>>

const ISOLATION: Section<'isolation'> = {
  runtime: 'os-sandbox',
  limits: 'partly',
  cpus: 2,
  memory: '4GiB',
  processes: 512,
  wallclock: '8h',
  disk: '10GiB',
}
const UPLOAD: Section<'upload'> = { perRequest: '4MiB', perMinute: '20MiB', perSession: '200MiB' }
const DESKTOP: Section<'desktop'> = { clipboard: 'deny', display: 'deny', audio: 'deny' }

/** `given` over `defaults`. A parsed document has no key whose value is undefined. */
export const fill = <T extends object>(
  defaults: T,
  given: { [K in keyof T]?: T[K] | undefined } | undefined,
): T => ({ ...defaults, ...given }) as T

/** `spec` with every scalar and list present. Lists that are not given are empty: they deny. */
export function withDefaults(spec: ProfileSpec) {
  return {
    isolation: fill(ISOLATION, spec.isolation),
    files: spec.files ?? [],
    mirror: spec.mirror ?? [],
    hide: spec.hide ?? [],
    protect: spec.protect ?? [],
    review: spec.review ?? [],
    network: spec.network ?? [],
    upload: fill(UPLOAD, spec.upload),
    credentials: spec.credentials ?? [],
    environment: { pass: spec.environment?.pass ?? [], set: spec.environment?.set ?? {} },
    desktop: fill(DESKTOP, spec.desktop),
    approvals: spec.approvals ?? [],
  }
}

export type FullSpec = ReturnType<typeof withDefaults>

/** A file, or a directory with all that is in it, anywhere below the root. */
const any = (...names: string[]): string[] => names.map((name) => `**/${name}`)
const not = (...names: string[]): string[] => any(...names).map((glob) => `!${glob}`)

/**
 * Hidden in every root but `${workspace}`: what the agent makes there is its own, and installs write test keys and
 * certificate bundles. Re-admitted: files that carry a secret's name and none of its content.
 */
export const DEFAULT_HIDE: readonly string[] = [
  ...any('.env', '.env.*'),
  ...not('.env.example', '.env.sample', '.env.template', '.env.dist'),
  ...any('*.pem', '*.key', '*.p12', '*.pfx', '*.jks', '*.keystore', '*.kdbx', '*.ppk'),
  ...any('id_rsa', 'id_dsa', 'id_ecdsa', 'id_ecdsa_sk', 'id_ed25519', 'id_ed25519_sk'),
  ...any('.netrc', '.pgpass', '.my.cnf', '.git-credentials', '.pypirc', '.vault-token', '.htpasswd'),
  ...any('.ssh', '.gnupg', '.aws', '.azure', '.kube', '.config/gcloud', '.config/gh', '.password-store'),
  ...any(
    '.docker/config.json',
    '.cargo/credentials',
    '.cargo/credentials.toml',
    '.terraformrc',
    '*.tfstate',
    '*.tfstate.backup',
  ),
  // Published packages and public roots: hidden they break builds, shown they tell nothing.
  ...not('node_modules/**', 'certifi/cacert.pem'),
]

/**
 * Installed packages carry editor, CI and agent settings of their own, and an install must be able to write them. No
 * tool takes them for the project's, and what a package may run it runs by its code anyway: the directory as a whole
 * is as trusted as what was installed.
 */
export const INSTALLED_FREE: readonly string[] = not('node_modules/**', 'site-packages/**')

/**
 * P-03 to P-07: agents and editors take servers, hooks, tasks, skills and permissions from these. What a project has
 * of them is part of what a person accepts (src/session/configuration.ts).
 */
export const AGENT_CONFIGURATION: readonly string[] = [
  '.mcp.json',
  'mcp.json',
  '.ripgreprc',
  '.vscode',
  '.idea',
  '.fleet',
  '.zed',
  '.devcontainer',
  '*.code-workspace',
  '.devcontainer.json',
  '.vimrc',
  '.nvimrc',
  '.exrc',
  '.lvimrc',
  '.dir-locals.el',
  '.claude',
  '.claude-plugin',
  '.codex',
  '.cursor',
  '.gemini',
  '.opencode',
  '.windsurf',
  '.continue',
  '.amazonq',
  '.qwen',
  '.roo',
  '.kilocode',
  '.pi',
  '.goose',
  '.aider',
  '.agents',
  '.claude.json',
  'opencode.json',
  'opencode.jsonc',
  '.aider.conf.yml',
  '.crush.json',
  'crush.json',
]

/** What agents believe: text, but obeyed. */
export const AGENT_INSTRUCTIONS: readonly string[] = [
  'AGENTS.md',
  'AGENT.md',
  'CLAUDE.md',
  'CLAUDE.local.md',
  'GEMINI.md',
  'QWEN.md',
  'CONVENTIONS.md',
  'SKILL.md',
  '.cursorrules',
  '.windsurfrules',
  '.clinerules',
  '.goosehints',
  '.github/copilot-instructions.md',
  '.github/instructions',
  '.github/prompts',
  '.github/agents',
]

/** Names that run, or decide what runs, when a person or a tool later works with the directory on the host. */
export const DEFAULT_PROTECT: readonly string[] = [
  // P-01 shells read these at every start.
  ...any('.bashrc', '.bash_profile', '.bash_login', '.bash_logout', '.bash_aliases', '.profile'),
  ...any('.zshrc', '.zprofile', '.zshenv', '.zlogin', '.zlogout', '.cshrc', '.tcshrc', '.kshrc', '.inputrc'),
  ...any('.config/fish'),
  // P-02 git runs hooks, and programs that its configuration names. Objects, refs and index stay writable.
  ...any('.gitconfig', '.gitmodules', '.git/config', '.git/config.worktree', '.config/git/config'),
  ...any('.git/hooks', '.git/info/attributes', '.git/modules/**/hooks'),
  ...any('.git/modules/**/config', '.git/modules/**/config.worktree', '.git/worktrees/*/config.worktree'),
  // Pointers that move hooks, configuration or objects elsewhere (F-14).
  ...any(
    '.git/commondir',
    '.git/worktrees/*/commondir',
    '.git/worktrees/*/gitdir',
    '.git/objects/info/alternates',
  ),
  // Remotes as git named them before it had a configuration; it still reads them.
  ...any('.git/remotes', '.git/branches'),
  // P-03 to P-07
  ...any(...AGENT_CONFIGURATION),
  ...any(
    '.github/workflows',
    '.github/actions',
    '.gitea/workflows',
    '.forgejo/workflows',
    '.circleci',
    '.buildkite',
  ),
  ...any(
    '.gitlab-ci.yml',
    '.travis.yml',
    'azure-pipelines.yml',
    'Jenkinsfile',
    '.drone.yml',
    '.woodpecker.yml',
  ),
  // P-09 what a login, a desktop or a timer starts.
  ...any(
    '.ssh',
    '.config/autostart',
    '.config/systemd',
    '.config/environment.d',
    '.local/share/applications',
  ),
  ...any('Library/LaunchAgents'),
  ...any(
    '*.desktop',
    '.xprofile',
    '.xinitrc',
    '.xsession',
    '.xsessionrc',
    '.pam_environment',
    'crontab',
    '.crontab',
  ),
  ...INSTALLED_FREE,
]

/** P-08 and agent instructions: written often and rightly, but run or believed later. At least `review`. */
export const DEFAULT_REVIEW: readonly string[] = [
  ...any(
    '.npmrc',
    'package.json',
    '.yarnrc',
    '.yarnrc.yml',
    '.pnpmfile.cjs',
    'pnpm-workspace.yaml',
    'bunfig.toml',
  ),
  ...any('.yarn'),
  ...any(
    'pip.conf',
    'conftest.py',
    'setup.py',
    'setup.cfg',
    'pyproject.toml',
    'tox.ini',
    'noxfile.py',
    'sitecustomize.py',
  ),
  ...any(
    'usercustomize.py',
    '*.pth',
    'build.rs',
    '.cargo/config',
    '.cargo/config.toml',
    'rust-toolchain.toml',
  ),
  ...any(
    'Makefile',
    'GNUmakefile',
    'makefile',
    'justfile',
    'Justfile',
    'Taskfile.yml',
    'Rakefile',
    'Gemfile',
    'CMakeLists.txt',
  ),
  ...any(
    'build.gradle',
    'build.gradle.kts',
    'settings.gradle',
    'settings.gradle.kts',
    'gradlew',
    'mvnw',
    'pom.xml',
  ),
  ...any('.mvn', '.gradle', '.husky', '.githooks'),
  ...any(
    '.envrc',
    '.tool-versions',
    'mise.toml',
    '.mise.toml',
    '.pre-commit-config.yaml',
    'lefthook.yml',
    '.lintstagedrc*',
  ),
  ...any(
    'Dockerfile',
    'docker-compose.yml',
    'docker-compose.yaml',
    'compose.yml',
    'compose.yaml',
    'Vagrantfile',
  ),
  ...any(
    '*.config.js',
    '*.config.cjs',
    '*.config.mjs',
    '*.config.ts',
    '.eslintrc*',
    '.prettierrc*',
    '.babelrc*',
  ),
  ...any('.gitattributes', '.editorconfig'),
  // A rebase that waits runs the `exec` lines of its list when a person goes on with it.
  ...any('.git/rebase-merge', '.git/worktrees/*/rebase-merge', '.git/modules/**/rebase-merge'),
  // Git takes any directory with HEAD, objects and refs for a bare repository and obeys the configuration in it.
  ...any('HEAD'),
  ...not('.git/HEAD', '.git/logs/HEAD', '.git/modules/**/HEAD'),
  ...any(...AGENT_INSTRUCTIONS),
  ...INSTALLED_FREE,
]
