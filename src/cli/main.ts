import { AmbitError } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { resolvePaths } from '../lib/paths.ts'
import { printable } from '../lib/printable.ts'
import { type Command, type Context, failureOf, helpOf, parseArguments } from './command.ts'

/** Loaded on demand: `ambit run` must not pay for the others. In the order of the overview. */
const COMMANDS: Readonly<Record<string, () => Promise<{ command: Command }>>> = {
  run: () => import('./run.ts'),
  explain: () => import('./explain.ts'),
  profile: () => import('./profile.ts'),
  policy: () => import('./policy.ts'),
  sessions: () => import('./sessions.ts'),
  kill: () => import('./kill.ts'),
  freeze: () => import('./freeze.ts'),
  thaw: () => import('./thaw.ts'),
  narrow: () => import('./narrow.ts'),
  review: () => import('./review.ts'),
  why: () => import('./why.ts'),
  image: () => import('./image.ts'),
  attest: () => import('./attest.ts'),
  log: () => import('./log.ts'),
  doctor: () => import('./doctor.ts'),
  demo: () => import('./demo.ts'),
}

const VERSION = '0.1.0'
const LINGER_MS = 3000
/** What ambitd starts, not people: a process that waits, loaded, for one `ambit run`. */
const HOST = 'session-host'

async function overview(): Promise<string> {
  const commands = await Promise.all(Object.values(COMMANDS).map((load) => load()))
  const rows = commands.map(({ command: { name, summary } }) => `  ${name.padEnd(10)}${summary}`)
  return `ambit ${VERSION}: runs a desktop AI agent inside bounds you can read, enforce and prove

usage: ambit COMMAND [OPTIONS]

${rows.join('\n')}

  ambit help COMMAND says more.   First: ambit doctor, then ambit demo.

environment:
  AMBIT_HOME            keeps all state in one directory (default: the XDG base directories)
  AMBIT_UPSTREAM_PROXY  the proxy by which the gate reaches the network: http[s]://[USER:PASSWORD@]HOST:PORT
  AMBIT_UPSTREAM_ROOTS  a PEM file of roots of trust beside the system's
  NO_COLOR              no colours

exit status:
  0 done, 1 what was asked for is not so, 2 usage, 125 Ambit failed, 126 refused; of a session: ambit run --help.
`
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv[0] === 'help' && argv[1] !== undefined ? [argv[1], '--help'] : argv
  const context: Context = {
    paths: resolvePaths(),
    env: process.env,
    cwd: process.cwd(),
    color: Boolean(process.stderr.isTTY) && !process.env.NO_COLOR,
    out: (text) => void process.stdout.write(text.endsWith('\n') ? text : `${text}\n`),
    err: (text) => void process.stderr.write(text.endsWith('\n') ? text : `${text}\n`),
  }
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    context.out(await overview())
    return name === undefined ? 2 : 0
  }
  if (name === '--version' || name === 'version') {
    context.out(VERSION)
    return 0
  }
  if (name === HOST) return (await import('./host.ts')).host(rest)
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (!load)
    throw new AmbitError('ERR_USAGE', printable(name, 80), 'there is no such command', 'see ambit --help')
  // Node's own words help nobody else.
  if (!process.env.AMBIT_DEBUG) native().keepLastWords()
  const { command } = await load()
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

// What nobody caught is Ambit's failure, not the command's status.
process.on('uncaughtException', (error: unknown) => {
  fail(error)
  process.exit()
})

function fail(error: unknown): void {
  const { text, exit } = failureOf(error)
  process.stderr.write(text)
  process.exitCode = exit
}
