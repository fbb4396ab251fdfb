/** `ambitd`: claims the socket, opens the log, recovers, serves, and leaves when nobody needs it. Wiring only. */
import { parseArgs } from 'node:util'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { native } from '../lib/native.ts'
import { type Paths, resolvePaths } from '../lib/paths.ts'
import { claimStateDir } from '../lib/state-dir.ts'
import { openBook } from './book.ts'
import { Daemon } from './daemon.ts'
import { keepStandby } from './standby.ts'
import { type Serving, claimDaemon, serve } from './serve.ts'

const TICK_MS = 1000
const IDLE_MS = 5 * 60_000

async function main(): Promise<void> {
  process.umask(0o077)
  const { paths, idleMs } = parseOptions()
  if (claimDaemon(paths) === null) return
  claimStateDir(paths.state)
  native().noNewPrivileges()
  const daemon = new Daemon(paths, await openBook(paths))
  daemon.adopt()
  let end = (_code: number): void => undefined
  const ended = new Promise<number>((resolve) => {
    end = resolve
  })
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => end(0))
  const serving = await serve(paths, daemon, () => end(0))
  await daemon.recover()
  const standby = keepStandby(paths)
  void heartbeat(daemon, serving, idleMs, end)
  const code = await ended
  standby.stop()
  await daemon.close()
  await serving.close()
  process.exit(code)
}

/** One tick after the other, never two at once. A log that failed ends the daemon: its sessions stop with it. */
async function heartbeat(
  daemon: Daemon,
  serving: Serving,
  idleMs: number,
  end: (code: number) => void,
): Promise<void> {
  for (let idleSince = performance.now(); ; ) {
    await new Promise((resolve) => setTimeout(resolve, TICK_MS))
    await daemon.tick()
    if (daemon.fatal) {
      process.stderr.write(`ambitd: ${daemon.fatal.message}\n`)
      return end(1)
    }
    // Without its socket it would hold the log's lock for nobody; sessions that lost it start another.
    if (!serving.reachable && serving.links === 0) return end(0)
    // A broken log was judged at the start; once nobody waits for the answer the next start judges it anew.
    if (daemon.broken && serving.links === 0) return end(0)
    if (serving.links > 0 || daemon.liveSessions > 0) idleSince = performance.now()
    else if (performance.now() - idleSince >= idleMs) return end(0)
  }
}

function parseOptions(): { paths: Paths; idleMs: number } {
  const text = { type: 'string' } as const
  const { values } = parseArgs({ options: { config: text, state: text, run: text, 'idle-ms': text } })
  const fallback = resolvePaths()
  return {
    paths: {
      config: values.config ?? fallback.config,
      state: values.state ?? fallback.state,
      run: values.run ?? fallback.run,
    },
    idleMs: Number(values['idle-ms'] ?? IDLE_MS),
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`ambitd: ${error instanceof AmbitError ? error.message : messageOf(error)}\n`)
  process.exit(1)
})
