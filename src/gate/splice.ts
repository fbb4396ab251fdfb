/** Two streams joined: bytes pass as they are, each way counted, the way out charged. */
import type { Duplex } from 'node:stream'
import type { Monitor } from './monitor.ts'
import { pumpDown, UploadPump } from './pump.ts'

export interface SpliceRules {
  readonly monitor: Monitor
  charge(bytes: number): string | null
  cut(reason: string): void
  movedOut(bytes: number): void
  movedIn(bytes: number): void
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
    this.#client = client
    this.#upstream = upstream
    this.#pump = new UploadPump(client, upstream, { ...rules, moved: (bytes) => rules.movedOut(bytes) })
    pumpDown(upstream, client, (bytes) => rules.movedIn(bytes))
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on('error', () => other.destroy())
      one.on('close', () => {
        // A half-closed peer still gets what is under way; a broken one takes the other with it.
        if (one.readableAborted) other.destroy()
        else if (!other.destroyed) other.end()
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
