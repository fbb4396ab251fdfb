import { dirname, sep } from 'node:path'

/** What a closure may never show: places of the session that the guard measures paths against. */
export interface Bounds {
  /** The user's real home. */
  readonly home: string
  /** Ambit's own directories (config, state, run) and the installed product's writable ones. */
  readonly own: readonly string[]
  /** Roots of the session's view: only the view shows what lies in them. */
  readonly roots: readonly string[]
}

/** Never shown, neither the directory, nor anything in it, nor anything that contains it. Relative to the home. */
const SECRETS = [
  '.ssh', '.gnupg', '.aws', '.azure', '.kube', '.docker', '.password-store', '.netrc', '.npmrc', '.pypirc',
  '.git-credentials', '.pgpass', '.my.cnf', '.vault-token', '.terraform.d', '.cargo/credentials.toml', '.m2/settings.xml',
  '.config/gcloud', '.config/gh', '.config/op', '.config/sops', '.config/git/credentials', '.config/containers',
  '.local/share/keyrings', '.local/share/kwalletd', '.mozilla', '.thunderbird', '.config/google-chrome', '.config/chromium',
  '.config/BraveSoftware', '.config/microsoft-edge', '.config/rclone', '.config/hub', '.s3cfg', '.boto', '.oci',
  '.bash_history', '.zsh_history', '.python_history', '.node_repl_history', '.psql_history',
] // biome-ignore format: a list of names

/** Hold programs as well as settings: a tree below may be shown, the directory itself not. Relative to the home. */
const SHARED = [
  '.claude', '.codex', '.gemini', '.pi', '.opencode', '.config', '.local', '.local/share', '.local/lib', '.local/bin', '.local/state',
  '.cache', 'bin', 'Desktop', 'Documents', 'Downloads', '.cargo', '.npm', '.volta', '.nvm', '.pyenv', 'go', 'src', 'snap',
] // biome-ignore format: a list of names

/** System directories that a closure must not bring in whole; first-level entries below them may be. */
const BROAD = [
  '/',
  '/home',
  '/root',
  '/etc',
  '/var',
  '/var/lib',
  '/opt',
  '/srv',
  '/mnt',
  '/media',
  '/run',
  '/tmp',
  '/var/tmp',
  '/proc',
  '/sys',
  '/dev',
  '/boot',
  '/nix',
  '/snap',
]

/** True when `path` is `dir` or lies in it. */
export const isWithin = (path: string, dir: string): boolean =>
  path === dir || path.startsWith(dir.endsWith(sep) ? dir : dir + sep)

/**
 * Why `path` may not become a closure mount, or null.
 *
 * A closure is found by following links, shebangs and package layouts, all of which somebody else may have
 * written: without this check a link `~/bin/tool -> ~` would show the whole home.
 */
export function refuseMount(path: string, bounds: Bounds): string | null {
  if (BROAD.includes(path) || /^\/(proc|sys|dev|etc)\//.test(path)) return `${path} is a system directory`
  if (isWithin(bounds.home, path)) return 'it holds the home directory'
  for (const own of bounds.own) {
    if (isWithin(own, path) || isWithin(path, own)) return "it holds or lies in Ambit's own state"
  }
  for (const root of bounds.roots) {
    if (isWithin(root, path)) return `it holds ${root}, which only the view shows`
  }
  for (const name of SECRETS) {
    const secret = `${bounds.home}/${name}`
    if (isWithin(secret, path) || isWithin(path, secret)) return `it holds or lies in ~/${name}`
  }
  for (const name of SHARED) {
    if (path === `${bounds.home}/${name}`) return `~/${name} holds more than one program`
  }
  // Another user's home: /home/bob, but not /home/linuxbrew/.linuxbrew.
  if (dirname(path) === '/home') return 'it is a home directory'
  return null
}
