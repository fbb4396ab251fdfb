/**
 * RFC 6962 Merkle trees: hashing and inclusion proofs. Pure; where hashes lie is the caller's affair.
 * Sizes and indexes are safe integers; nothing here uses 32-bit operators on them.
 */
import { hash } from 'node:crypto'

/** SHA-256, 32 bytes. */
export type Hash = Uint8Array

/** Root of the complete subtree over the leaves `[index·2^level, (index+1)·2^level)`. */
export type HashReader = (level: number, index: number) => Hash

export const EMPTY_ROOT: Hash = hash('sha256', new Uint8Array(0), 'buffer')

const LEAF = Uint8Array.of(0)
const NODE = Uint8Array.of(1)

/** RFC 6962 §2.1: leaves and nodes are told apart by their first byte, so neither can pass as the other. */
export const leafHash = (entry: Uint8Array): Hash => sha256(Buffer.concat([LEAF, entry]))

export const nodeHash = (left: Hash, right: Hash): Hash => sha256(Buffer.concat([NODE, left, right]))

/** One call, and a text as its answer: half the time of a hash object that answers a buffer. */
const sha256 = (bytes: Uint8Array): Hash => Buffer.from(hash('sha256', bytes, 'hex'), 'hex')

/** Root of a complete subtree from its 2^n hashes. */
export function foldHashes(hashes: readonly Hash[]): Hash {
  let row = hashes
  while (row.length > 1)
    row = Array.from({ length: row.length / 2 }, (_, i) => nodeHash(at(row, 2 * i), at(row, 2 * i + 1)))
  return at(row, 0)
}

/** Root of the tree of the first `size` leaves. */
export const treeRoot = (size: number, read: HashReader): Hash =>
  size === 0 ? EMPTY_ROOT : rangeRoot(0, size, read)

/** MTH of leaves `[low, high)` where `low` starts a subtree. */
function rangeRoot(low: number, high: number, read: HashReader): Hash {
  const length = high - low
  const half = splitOf(length)
  if (half * 2 === length || length === 1) return read(Math.log2(length), low / length)
  return nodeHash(rangeRoot(low, low + half, read), rangeRoot(low + half, high, read))
}

/** Largest power of two smaller than `length` (1 for 1). */
function splitOf(length: number): number {
  let half = 1
  while (half * 2 < length) half *= 2
  return half
}

/** PATH(index, D[size]) of RFC 6962 §2.1.1, leaf sibling first. */
export function inclusionProof(index: number, size: number, read: HashReader): Hash[] {
  if (!(index >= 0 && index < size)) throw new RangeError(`no entry ${index} in a tree of ${size}`)
  const path: Hash[] = []
  for (let low = 0, high = size; high - low > 1; ) {
    const middle = low + splitOf(high - low)
    if (index < middle) {
      path.push(rangeRoot(middle, high, read))
      high = middle
    } else {
      path.push(rangeRoot(low, middle, read))
      low = middle
    }
  }
  return path.reverse()
}

/** Plain comparison: roots and leaves are public. */
export const equal = (a: Hash, b: Hash): boolean => Buffer.compare(a, b) === 0

function at(hashes: readonly Hash[], index: number): Hash {
  const found = hashes[index]
  if (!found) throw new RangeError(`hash ${index} of ${hashes.length}`)
  return found
}
