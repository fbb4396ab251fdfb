import { writeSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Declined } from '../session/front.ts'
import { awaitGuest, type Guest } from '../session/host.ts'
import { rehearse } from '../session/rehearse.ts'
import { type Context, failureOf, parseArguments } from './command.ts'
import { command } from './run.ts'

/** Waits, loaded, for one `ambit run`, runs its session, and ends. Started by ambitd; ends with it while it waits. */
export async function host(argv: readonly string[]): Promise<number> {
  const text = { type: 'string', default: '' } as const
  const { values: paths } = parseArgs({ args: [...argv], options: { config: text, state: text, run: text } })
  // ambitd's end of file, while nobody is here, is our own end.
  const orphaned = (): never => process.exit(1)
  process.stdin.once('end', orphaned).resume()
  await rehearse(paths)
  const guest = await awaitGuest(paths, () => {
    process.stdin.off('end', orphaned).pause()
    process.stdin.unref()
    tellDaemon()
  })
  const code = await serve(guest, paths)
  if (code === null) guest.decline()
  else guest.exit(code)
  // The caller closes the link, and that ends this process.
  return new Promise(() => undefined)
}

/** That another one is needed. An ambitd that is just gone starts the next one anyway. */
function tellDaemon(): void {
  try {
    writeSync(1, 'taken\n')
  } catch {
    // Its pipe is closed; the session finds out by its own link.
  }
}

/** The exit status; null when the caller has to start by itself. */
async function serve({ argv, front }: Guest, paths: Context['paths']): Promise<number | null> {
  const context: Context = {
    paths,
    env: process.env,
    cwd: process.cwd(),
    color: front.color,
    out: () => undefined,
    err: (text) => front.err(text),
    front,
  }
  try {
    return await command.run(parseArguments(command, argv.slice(1)), context)
  } catch (error) {
    if (error instanceof Declined) return null
    const { text, exit } = failureOf(error)
    front.err(text)
    return exit
  }
}
