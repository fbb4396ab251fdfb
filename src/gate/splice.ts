/** Two streams joined: bytes pass as they are, each way counted, the way out charged. */
import type { Duplex, Transform } from 'node:stream'
import type { Monitor } from './monitor.ts'
import { gather } from './backlog.ts'
import { pumpDown, through as passed, UploadPump } from './pump.ts'

export interface SpliceRules {
  readonly monitor: Monitor
  charge(bytes: number): string | null
  cut(reason: string): void
  movedOut(bytes: number): void
  movedIn(bytes: number): void
  /** What the server's bytes go through on their way to the client. */
  readonly through?: Transform
  /** Both sides are closed. Called once. */
  closed(): void
}

/** Joins a client's stream with a server's until both are closed. */
export class Splice {
  readonly #client: Duplex
  readonly #upstream: Duplex
  readonly #pump: UploadPump
  #open = 2

  constructor(client: Duplex, upstream: Duplex, rules: SpliceRules) {
    // One side may have said all it has to say while the other still answers.
    client.allowHalfOpen = true
    upstream.allowHalfOpen = true
    gather(client)
    gather(upstream)
    this.#client = client
    this.#upstream = upstream
    this.#pump = new UploadPump(client, upstream, { ...rules, moved: (bytes) => rules.movedOut(bytes) })
    const { through } = rules
    through?.on('error', () => this.destroy())
    pumpDown(through ? passed(upstream, through) : upstream, client, (bytes) => rules.movedIn(bytes))
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on('error', () => other.destroy())
      one.on('close', () => {
        // A half-closed peer still gets what is under way; a broken one takes the other with it.
        if (one.readableAborted) other.destroy()
        // What is still on its way through ends the client's side itself.
        else if (!other.destroyed && !(one === upstream && through)) other.end()
        if (--this.#open === 0) rules.closed()
      })
    }
    client.resume()
    upstream.resume()
  }

  destroy(): void {
    this.#pump.stop()
    this.#client.destroy()
    this.#upstream.destroy()
  }
}
