/** The log as the daemon holds it: open, or broken with the reason for which no session may start. */
import { hostname } from 'node:os'
import { loadOrMakeSigner } from '../audit/keys.ts'
import { Log } from '../audit/log.ts'
import { Sequencer } from '../audit/sequencer.ts'
import { AmbitError, messageOf } from '../lib/errors.ts'
import { type Paths, keysDir, logDir, sessionDir } from '../lib/paths.ts'

export type Book =
  | { readonly log: Log; readonly sequencer: Sequencer; readonly broken: null }
  | { readonly log: null; readonly sequencer: null; readonly broken: AmbitError }

/** Opens key and log. Never throws: a daemon that cannot sign still lists, kills and says why. */
export async function openBook(paths: Paths): Promise<Book> {
  try {
    const signer = loadOrMakeSigner(keysDir(paths), logDir(paths))
    const log = await Log.open({ dir: logDir(paths), signer })
    const device = { uid: signer.name.slice(signer.name.indexOf('/') + 1), hostname: hostname() }
    return {
      log,
      sequencer: new Sequencer({ log, device, dirOf: (id) => sessionDir(paths, id) }),
      broken: null,
    }
  } catch (error) {
    const broken =
      error instanceof AmbitError
        ? error
        : new AmbitError(
            'ERR_LOG_FAILED',
            'could not open the log',
            messageOf(error),
            `see to ${logDir(paths)} and ${keysDir(paths)}: no session starts without them`,
          )
    return { log: null, sequencer: null, broken }
  }
}
