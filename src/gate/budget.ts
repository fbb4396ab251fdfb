/** Upload allowances of a session: per request, per rolling minute, per session. Pure but for its own counters. */
import type { Plan } from '../profile/plan.ts'

export type UploadLimits = Plan['upload']
export type UploadRefusal = 'upload.per-request' | 'upload.per-minute' | 'upload.per-session'

const SLOTS = 60

/** Counts bytes before they are sent. Path, query, headers, body and frames all count. */
export class UploadBudget {
  readonly #limits: UploadLimits
  /** Bytes of each of the last 60 seconds; `#second` is the newest. */
  readonly #slots = new Float64Array(SLOTS)
  #second = 0
  #minute = 0
  #session = 0

  constructor(limits: UploadLimits) {
    this.#limits = limits
  }

  get session(): number {
    return this.#session
  }

  /** Why `bytes` more, in a request that has already sent `sent`, may not go; null when they may. */
  refusal(bytes: number, sent: number, now: number): UploadRefusal | null {
    this.#advance(now)
    if (sent + bytes > this.#limits.perRequest) return 'upload.per-request'
    if (this.#session + bytes > this.#limits.perSession) return 'upload.per-session'
    if (this.#minute + bytes > this.#limits.perMinute) return 'upload.per-minute'
    return null
  }

  /** Counts `bytes` when they may go; nothing is counted otherwise. */
  charge(bytes: number, sent: number, now: number): UploadRefusal | null {
    const refusal = this.refusal(bytes, sent, now)
    if (refusal !== null) return refusal
    const slot = this.#second % SLOTS
    this.#slots[slot] = (this.#slots[slot] ?? 0) + bytes
    this.#minute += bytes
    this.#session += bytes
    return null
  }

  /** `now` is monotonic milliseconds: a wall clock set forward would grant a fresh minute. */
  #advance(now: number): void {
    const second = Math.floor(now / 1000)
    if (second <= this.#second) return
    const steps = Math.min(SLOTS, second - this.#second)
    for (let step = 1; step <= steps; step++) {
      const slot = (second - steps + step) % SLOTS
      this.#minute -= this.#slots[slot] ?? 0
      this.#slots[slot] = 0
    }
    this.#second = second
  }
}

/** The share of one exchange or tunnel in the budget. */
export class UploadMeter {
  readonly #budget: UploadBudget
  #sent = 0
  #turn = 0

  constructor(budget: UploadBudget) {
    this.#budget = budget
  }

  /**
   * The server spoke: in a WebSocket or an opaque tunnel, what follows counts as another request. Without this every
   * long conversation would reach the limit of one request. A server that only pretends gains nothing on minute and
   * session.
   */
  turn(): void {
    this.#turn = 0
  }

  get sent(): number {
    return this.#sent
  }

  charge(bytes: number): UploadRefusal | null {
    const refusal = this.#budget.charge(bytes, this.#turn, performance.now())
    if (refusal === null) {
      this.#sent += bytes
      this.#turn += bytes
    }
    return refusal
  }

  /** Whether a declared length could never be sent: refused at once rather than half-way. */
  foresee(bytes: number): UploadRefusal | null {
    return this.#budget.refusal(bytes, this.#turn, performance.now())
  }
}
