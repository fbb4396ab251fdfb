/**
 * The half of `ambitd` that makes a session's journal the log, in a process of its own; the figure of the journal starts
 * it. Arguments: the log's directory, the keys', the session's. On stdin `{"op":"follow"}` begins, and `{"op":"finish"}`
 * is answered when all that the journal then holds is in the signed log, with {"size"}.
 */
import { basename, dirname } from 'node:path'
import { createInterface } from 'node:readline'
import { messageOf } from '../src/lib/errors.ts'
import { openLog } from './figures/journal-log.ts'

const [logDir = '', keys = '', session = ''] = process.argv.slice(2)
const { log, sequencer } = await openLog(logDir, keys, dirname(session))
const say = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`)
let following = false

/** As the daemon does: in small shares while nobody waits. */
async function follow(): Promise<void> {
  for (following = true; following; ) {
    await sequencer.sequenceGently()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

const id = basename(session)
sequencer.follow(id)
let followed: Promise<unknown> = Promise.resolve()
say({ ready: true })
for await (const line of createInterface(process.stdin)) {
  const { op } = JSON.parse(line) as { op: string }
  if (op === 'follow') {
    followed = follow().catch((error: unknown) => say({ error: messageOf(error) }))
    say({ following: true })
  } else {
    following = false
    const { size } = await sequencer.finish(id)
    await followed
    say({ size })
  }
}
log.close()
