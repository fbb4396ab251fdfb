/**
 * What git runs or obeys although it does not bear git's usual names: a `.git` file instead of a directory,
 * `core.hooksPath`, `core.fsmonitor`, `include.path`, and scripts that filters, drivers and helpers name (F-14).
 * Found once, when the session starts; the files that could set such a redirection are protected by name.
 */
import { spawnSync } from 'node:child_process'
import { lstatSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { AmbitError, errnoOf } from '../lib/errors.ts'
import { HOST_PATH } from '../lib/host-path.ts'
import { printable } from '../lib/printable.ts'
import { readBeginning } from '../lib/small-file.ts'

/**
 * Absolute paths to protect for `root`, a working tree or a directory in one; empty where there is no git. Of a working
 * tree around it only its settings matter: they may lead back into `root`.
 */
export function gitRedirects(root: string): string[] {
  const dotGit = join(root, '.git')
  const kind = kindOf(dotGit)
  if (kind === null) return dirname(root) === root ? [] : gitRedirects(dirname(root))
  if (kind === 'dir') return settingsOf(join(dotGit, 'config'), root)
  const gitDir = pointer(dotGit, /^gitdir: (.+)$/m)
  if (gitDir === null) return [dotGit]
  const common = pointer(join(gitDir, 'commondir'), /^(.+)$/m) ?? gitDir
  const own = ['config', 'config.worktree', 'hooks', 'commondir', 'gitdir', 'info/attributes']
  return [
    dotGit,
    ...[gitDir, common].flatMap((dir) => own.map((name) => join(dir, name))),
    ...settingsOf(join(common, 'config'), root),
  ]
}

function kindOf(path: string): 'dir' | 'other' | null {
  try {
    return lstatSync(path).isDirectory() ? 'dir' : 'other'
  } catch {
    return null
  }
}

/** The path that a pointer file names, relative to the file. */
function pointer(file: string, form: RegExp): string | null {
  const target = form.exec(readBeginning(file, 8192)?.toString('utf8') ?? '')?.[1]?.trim()
  return target ? resolve(dirname(file), target) : null
}

/** Settings that name a file or directory, in lower case as git says them. */
const PATHS = 'core\\.(hookspath|fsmonitor|attributesfile)|include\\.path|includeif\\..*\\.path'
/** Settings that name a command which git runs by itself: while it looks, compares, commits, fetches or pages. */
const COMMANDS = [
  'core\\.(sshcommand|pager|editor|askpass|gitproxy|alternaterefscommand)',
  'pager\\..*|sequence\\.editor|interactive\\.difffilter',
  'filter\\..*\\.(clean|smudge|process)',
  'diff\\.external|diff\\..*\\.(command|textconv)|merge\\..*\\.driver',
  'credential\\.(.*\\.)?helper|gpg\\.(.*\\.)?program|gpg\\.ssh\\.defaultkeycommand',
].join('|')
const COMMAND = new RegExp(`^(${COMMANDS})$`)
const MOST_WORDS = 64

/** The words of a shell's command that are files of the working tree `root`: a directory there is no program. */
function scriptsOf(command: string, root: string): string[] {
  const words = command.split(/[\s'"`;&|()<>$!=,]+/).filter(Boolean)
  return words
    .slice(0, MOST_WORDS)
    .map((word) => resolve(root, word))
    .filter((path) => kindOf(path) === 'other')
}

/**
 * Git's own parser reads the file, and only the file: nothing of the repository is run or followed.
 *
 * @throws AmbitError when it names more, or takes longer, than can be looked through: what it leads to stays unknown.
 */
function settingsOf(config: string, root: string): string[] {
  const keys = `^(${PATHS}|${COMMANDS})$`
  const run = spawnSync('git', ['config', '--file', config, '--no-includes', '-z', '--get-regexp', keys], {
    cwd: '/',
    encoding: 'utf8',
    timeout: 5000,
    maxBuffer: 1024 * 1024,
    env: {
      PATH: HOST_PATH,
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_GLOBAL: '/dev/null',
    },
  })
  if (['ENOBUFS', 'ETIMEDOUT'].includes(errnoOf(run.error) ?? ''))
    throw new AmbitError(
      'ERR_PATH_FORBIDDEN',
      printable(config),
      'git cannot be made to say what this configuration obeys, so it cannot be protected',
      'look into it before anything runs there',
    )
  if (run.status !== 0) return [] // no git, no file, no such setting
  return run.stdout.split('\0').flatMap((entry) => {
    const cut = entry.indexOf('\n')
    const value = cut === -1 ? '' : entry.slice(cut + 1)
    if (value === '' || value === 'true' || value === 'false' || value.startsWith('~')) return []
    if (COMMAND.test(entry.slice(0, cut))) return scriptsOf(value, root)
    // Includes are relative to the file, hooks and programs to the working tree.
    return [resolve(entry.startsWith('include') ? dirname(config) : root, value)]
  })
}
