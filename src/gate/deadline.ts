/** Rejects with a TimeoutError when `work` takes longer than `ms`; the work's late result has no effect. */
export function withDeadline<T>(work: Promise<T>, ms: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new DOMException('deadline', 'TimeoutError')), ms)
    work.then(
      (value) => {
        clearTimeout(timer)
        resolve(value)
      },
      (error: Error) => {
        clearTimeout(timer)
        reject(error)
      },
    )
  })
}

/** Something that ends by itself when nothing happens any more. */
export interface Watched {
  /** Monotonic milliseconds. */
  readonly deadline: number
  expire(): void
}

/** One timer for all exchanges and tunnels: a timer each would cost more than the requests. */
export class Watch {
  readonly #watched = new Set<Watched>()
  readonly #timer: NodeJS.Timeout

  constructor(everyMs: number, onTick: () => void) {
    this.#timer = setInterval(() => {
      onTick()
      const now = performance.now()
      for (const item of this.#watched) if (item.deadline <= now) item.expire()
    }, everyMs)
    this.#timer.unref()
  }

  get size(): number {
    return this.#watched.size
  }

  add(item: Watched): void {
    this.#watched.add(item)
  }

  delete(item: Watched): void {
    this.#watched.delete(item)
  }

  expireAll(): void {
    for (const item of this.#watched) item.expire()
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}
