/** Entries on their way into the log: framed as in its bundles, and cut where those end. */
import { MAX_ENTRY, WIDTH } from './tiles.ts'

/** Room of a bundle at first; a full one usually takes 256 KiB. */
const ROOM = 1 << 14
const LENGTH = 2
const NOTHING = Buffer.alloc(0)

/** Entries that follow each other in the log. */
export class EntryBatch {
  /** Framed entries, one after the other, of each bundle that they touch, and how much of its room it takes. */
  readonly #rooms: Buffer[] = []
  #used: number[] = [0]
  #start: number
  #count = 0

  /** `size`: of the log that they extend. */
  constructor(size: number) {
    this.#start = size
  }

  /** Begins anew in the memory of the entries before, which nobody may read any more. */
  restart(size: number): void {
    this.#start = size
    this.#count = 0
    this.#used = [0]
  }

  static of(size: number, entries: Iterable<Uint8Array>): EntryBatch {
    const batch = new EntryBatch(size)
    for (const entry of entries) batch.add(entry)
    return batch
  }

  /** Size of the log that they extend. */
  get start(): number {
    return this.#start
  }

  get count(): number {
    return this.#count
  }

  /** Index of the entry that comes next. */
  get next(): number {
    return this.#start + this.#count
  }

  /** Framed entries of each bundle that they touch: the first may go on with one, the last may end within one. */
  get bundles(): readonly Uint8Array[] {
    const bundles = this.#used.map((used, i) => (this.#rooms[i] ?? NOTHING).subarray(0, used))
    return this.next % WIDTH === 0 ? bundles.slice(0, -1) : bundles
  }

  add(entry: Uint8Array): void {
    const { length } = entry
    if (length > MAX_ENTRY) throw new TypeError('entry too long for the log')
    let { room, used } = this.#last()
    while (used + LENGTH + length > room.length) room = this.#grow(room)
    room.writeUInt16BE(length, used)
    room.set(entry, used + LENGTH)
    this.#took(1, used + LENGTH + length)
  }

  /** Lets `write` frame up to `most` entries, as many as the bundle takes, into `room` from byte `used` on. */
  fill<T extends Filled>(most: number, write: (room: Buffer, used: number, most: number) => T): T {
    const wanted = Math.min(most, WIDTH - (this.next % WIDTH))
    let { room, used } = this.#last()
    for (;;) {
      const filled = write(room, used, wanted)
      if (filled.count > 0) this.#took(filled.count, used + filled.written)
      if (filled.count > 0 || !filled.full) return filled
      room = this.#grow(room)
    }
  }

  /** The bundle that is being filled. */
  #last(): { room: Buffer; used: number } {
    const at = this.#used.length - 1
    return { room: this.#rooms[at] ?? this.#grow(NOTHING), used: this.#used[at] ?? 0 }
  }

  #took(count: number, used: number): void {
    this.#count += count
    this.#used[this.#used.length - 1] = used
    if (this.next % WIDTH === 0) this.#used.push(0)
  }

  #grow(room: Buffer): Buffer {
    const more = Buffer.allocUnsafeSlow(Math.max(ROOM, 4 * room.length))
    room.copy(more)
    this.#rooms[this.#used.length - 1] = more
    return more
  }
}

/** What was framed; `full`: there is more, for which there was no room. */
export interface Filled {
  readonly count: number
  readonly written: number
  readonly full: boolean
}
