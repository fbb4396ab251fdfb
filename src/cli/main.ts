import { AmbitError } from '../lib/errors.ts'
import { resolvePaths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import { type Command, type Context, failureOf, helpOf, parseArguments } from './command.ts'

/** Loaded on demand: `ambit run` must not pay for the others. */
const COMMANDS: Readonly<Record<string, { summary: string; load(): Promise<{ command: Command }> }>> = {
  run: { summary: 'run an agent inside its ambit', load: () => import('./run.ts') },
  explain: { summary: 'print the grant sheet, without running', load: () => import('./explain.ts') },
  profile: { summary: 'list, show and check profiles', load: () => import('./profile.ts') },
  policy: { summary: 'check, test and evaluate Rego policy', load: () => import('./policy.ts') },
  sessions: { summary: 'list sessions', load: () => import('./sessions.ts') },
  kill: { summary: 'end a session at once', load: () => import('./kill.ts') },
  freeze: { summary: 'stop a session, keeping its state', load: () => import('./freeze.ts') },
  thaw: { summary: 'let a frozen session go on', load: () => import('./thaw.ts') },
  narrow: { summary: 'take files from a session that runs', load: () => import('./narrow.ts') },
  review: { summary: 'see, apply or drop what a session changed', load: () => import('./review.ts') },
  why: { summary: 'explain the last refusals of a session', load: () => import('./why.ts') },
  log: { summary: 'read, verify and prove the signed log', load: () => import('./log.ts') },
  doctor: { summary: 'what this machine supports; --repair cleans up', load: () => import('./doctor.ts') },
  demo: { summary: 'the finance case, end to end', load: () => import('./demo.ts') },
}

const VERSION = '0.1.0'
const LINGER_MS = 3000
/** What ambitd starts, not people: a process that waits, loaded, for one `ambit run`. */
const HOST = 'session-host'

function overview(): string {
  const rows = Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`)
  return `ambit ${VERSION}: runs a desktop AI agent inside bounds you can read, enforce and prove

usage: ambit COMMAND [OPTIONS]

${rows.join('\n')}

  ambit COMMAND --help says more.   First: ambit doctor, then ambit demo.

environment:
  AMBIT_HOME            keeps all state in one directory (default: the XDG base directories)
  AMBIT_UPSTREAM_PROXY  the proxy by which the gate reaches the network: http://[USER:PASSWORD@]HOST:PORT
  AMBIT_UPSTREAM_ROOTS  a PEM file of roots of trust beside the system's
  NO_COLOR              no colours

exit status:
  0 done, 1 what was asked for is not so, 2 usage, 125 Ambit failed, 126 refused; of a session: ambit run --help.
`
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv
  const context: Context = {
    paths: resolvePaths(),
    env: process.env,
    cwd: process.cwd(),
    color: Boolean(process.stderr.isTTY) && !process.env.NO_COLOR,
    out: (text) => void process.stdout.write(text.endsWith('\n') ? text : `${text}\n`),
    err: (text) => void process.stderr.write(text.endsWith('\n') ? text : `${text}\n`),
  }
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    context.out(overview())
    return name === undefined ? 2 : 0
  }
  if (name === '--version' || name === 'version') {
    context.out(VERSION)
    return 0
  }
  if (name === HOST) return (await import('./host.ts')).host(rest)
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (!entry)
    throw new AmbitError('ERR_USAGE', printable(name, 80), 'there is no such command', 'see ambit --help')
  const { command } = await entry.load()
  const own = rest.includes('--') ? rest.slice(0, rest.indexOf('--')) : rest
  if (own.includes('--help') || own.includes('-h')) {
    context.out(helpOf(command))
    return 0
  }
  return command.run(parseArguments(command, rest), context)
}

// A reader that went away (`ambit log | head`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

// A session whose summary nobody reads any more goes on, and its status is the command's.
process.stderr.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

main(process.argv.slice(2))
  .then(
    (code) => {
      process.exitCode = code
    },
    (error: unknown) => fail(error),
  )
  // The command has answered: a handle that somebody forgot must not hold the terminal.
  .finally(() => setTimeout(() => process.exit(), LINGER_MS).unref())

function fail(error: unknown): void {
  const { text, exit } = failureOf(error)
  process.stderr.write(text)
  process.exitCode = exit
}
