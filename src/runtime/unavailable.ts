/**
 * Commands that people and agents try first and that no session can give: they need rights, a service or a desktop of
 * the host. Left alone they end in riddles ("is the Docker daemon running?"), so inside each is a script that says why
 * and what to do. No control: whoever calls the program by its path gets the riddle and no more.
 */
import { AmbitError } from '../lib/errors.ts'
import { BIN } from './closure.ts'
import type { LaunchMount } from './launch-spec.ts'

interface Unavailable {
  readonly names: readonly string[]
  /** Plain text for a shell's single quotes. */
  readonly why: string
  readonly instead: string
}

const GROUPS: readonly Unavailable[] = [
  {
    names: ['sudo', 'doas', 'su', 'pkexec', 'runuser', 'newgrp', 'sg', 'passwd', 'chsh', 'visudo'],
    why: 'nobody gains rights inside a session',
    instead: 'run the command itself; what needs root is for a person to do outside',
  },
  {
    names: ['docker', 'docker-compose', 'podman', 'podman-compose', 'nerdctl', 'buildah'],
    why: 'containers need a service of the host, which would lead out of the session',
    instead: 'run the program itself, or ask a person to run the container outside',
  },
  {
    names: ['apt', 'apt-get', 'aptitude', 'dnf', 'yum', 'zypper', 'pacman', 'snap', 'flatpak'],
    why: 'the system is read-only inside a session',
    instead:
      'install into the workspace (pip in a venv, npm, cargo, go), or ask a person to install it outside',
  },
  {
    names: ['systemctl', 'service', 'journalctl', 'loginctl', 'crontab', 'reboot', 'shutdown'],
    why: 'services and timers of the host are out of reach, and nothing of a session outlives it',
    instead: 'start the program itself; it ends with the session',
  },
  {
    names: ['ping', 'ping6', 'traceroute', 'tracepath', 'mtr'],
    why: 'no ICMP or UDP leaves a session',
    instead: 'try curl -I https://HOST',
  },
  {
    names: ['strace', 'ltrace', 'perf'],
    why: 'no process of a session may look into another, its own included',
    instead: 'let the program log what it does, or ask a person to trace it outside',
  },
  {
    names: ['xdg-open', 'sensible-browser', 'x-www-browser', 'gnome-open', 'gio-open', 'wslview'],
    why: 'a session has no desktop',
    instead: 'a person can open this outside',
  },
  {
    names: ['code', 'code-insiders', 'codium', 'subl'],
    why: 'a session has no desktop',
    instead: 'edit the files with a terminal editor, or let a person open them outside after ambit review',
  },
  {
    names: ['xclip', 'xsel', 'wl-copy', 'wl-paste', 'pbcopy', 'pbpaste'],
    why: 'a session has no clipboard',
    instead: 'print the text, or write it to a file in the workspace',
  },
]

const find = (name: string): Unavailable | undefined => GROUPS.find(({ names }) => names.includes(name))

/** Where the script lies; its names are links to it. */
const SCRIPT = `${BIN}/.unavailable`

/** What stands in for these commands inside; none for a name in `taken`. */
export function unavailableCommands(taken: ReadonlySet<string>): LaunchMount[] {
  const names = GROUPS.flatMap((group) => group.names).filter((name) => !taken.has(name))
  return [
    { kind: 'file', target: SCRIPT, content: script(), mode: 0o555 },
    ...names.map(
      (name): LaunchMount => ({ kind: 'symlink', target: `${BIN}/${name}`, link: '.unavailable' }),
    ),
  ]
}

/** To stderr, with what was to be opened or run; 126 as for every refusal. */
function script(): string {
  const cases = GROUPS.map(
    ({ names, why, instead }) => `${names.join('|')}) why='${why}' instead='${instead}' ;;`,
  )
  return `#!/bin/sh
name=\${0##*/}
case $name in
${cases.join('\n')}
esac
echo "ambit: $name: $why; $instead" >&2
[ $# = 0 ] || printf '       %s\\n' "$*" >&2
exit 126
`
}

/** The same word for `ambit run -- NAME`. @throws AmbitError */
export function refuseUnavailable(command: string): void {
  const group = find(command)
  if (group) throw new AmbitError('ERR_PATH_FORBIDDEN', command, group.why, group.instead)
}

/** What to say about the launch of one of these commands inside; null for every other program. */
export function unavailableCommand(path: string): { name: string; advice: string } | null {
  if (!path.startsWith(`${BIN}/`)) return null
  const name = path.slice(BIN.length + 1)
  const group = find(name)
  return group ? { name, advice: `No profile gives it: ${group.why}; ${group.instead}.` } : null
}
