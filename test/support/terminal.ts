/** Runs a command on a terminal of its own and answers `y` when it asks. */
import { describe, type Ran, type RunOptions, type Stage } from './stage.ts'

const SCRIPT = `
import os, pty, select, sys, time
pid, master = pty.fork()
if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
said, answered, until = b'', False, time.time() + 60
while time.time() < until:
    ready, _, _ = select.select([master], [], [], 1)
    if not ready: continue
    try: data = os.read(master, 65536)
    except OSError: break
    if not data: break
    said += data
    if not answered and b'[y/N]' in said:
        answered = True
        os.write(master, b'y\\n')
_, status = os.waitpid(pid, 0)
sys.stdout.write(said.decode('latin1'))
sys.exit(os.waitstatus_to_exitcode(status) & 127)
`

export interface Asked extends Ran {
  /** The grant sheet asked its question. */
  readonly asked: boolean
}

/** `ambit run` of `argv` as a person would start it; throws when the session does not end with 0. */
export async function atTerminal(
  stage: Stage,
  profile: string,
  argv: readonly string[] = ['/bin/true'],
  options: RunOptions = {},
): Promise<Asked> {
  const own = ['run', ...stage.places(profile)]
  const ran = await stage.command(
    ['python3', '-c', SCRIPT, stage.product.ambit, ...own, '--', ...argv],
    options,
  )
  if (ran.code !== 0) throw new Error(describe(ran))
  return { ...ran, asked: ran.stdout.includes('[y/N]') }
}
