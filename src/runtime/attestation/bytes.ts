/** Takes bytes apart, in the order in which they come. */
export class Bytes {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get ended(): boolean {
    return this.#at === this.#bytes.length
  }

  /** @throws RangeError where there are not as many. */
  take(length: number): Buffer {
    const end = this.#at + length
    if (end > this.#bytes.length) throw new RangeError('cut off')
    const taken = this.#bytes.subarray(this.#at, end)
    this.#at = end
    return taken
  }

  u16be = (): number => this.take(2).readUInt16BE()
  u32be = (): number => this.take(4).readUInt32BE()
  u16le = (): number => this.take(2).readUInt16LE()
  u32le = (): number => this.take(4).readUInt32LE()
  /** A `TPM2B`. */
  sized = (): Buffer => this.take(this.u16be())
}
