/**
 * RFC 6962 Merkle trees: hashing, inclusion and consistency proofs. Pure; where hashes lie is the caller's affair.
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

/** PROOF(old, D[size]) of RFC 6962 §2.1.2. Empty when the trees are equal or `old` is empty. */
export function consistencyProof(old: number, size: number, read: HashReader): Hash[] {
  if (!(old >= 0 && old <= size)) throw new RangeError(`no tree of ${old} in a tree of ${size}`)
  if (old === 0 || old === size) return []
  const proof: Hash[] = []
  let low = 0
  let high = size
  while (old !== high) {
    const middle = low + splitOf(high - low)
    if (old <= middle) {
      proof.push(rangeRoot(middle, high, read))
      high = middle
    } else {
      proof.push(rangeRoot(low, middle, read))
      low = middle
    }
  }
  if (low > 0) proof.push(rangeRoot(low, high, read))
  return proof.reverse()
}

/** RFC 9162 §2.1.3.2. True when `proof` shows that `leaf` is entry `index` of the tree `(size, root)`. */
export function verifyInclusion(
  leaf: Hash,
  index: number,
  size: number,
  proof: readonly Hash[],
  root: Hash,
): boolean {
  if (!(index >= 0 && index < size)) return false
  let fn = index
  let sn = size - 1
  let r = leaf
  for (const p of proof) {
    if (sn === 0) return false
    if (fn % 2 === 1 || fn === sn) {
      r = nodeHash(p, r)
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [fn / 2, Math.floor(sn / 2)]
    } else {
      r = nodeHash(r, p)
    }
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  return sn === 0 && equal(r, root)
}

/** RFC 9162 §2.1.4.2. True when `proof` shows that the tree `(size, root)` extends `(old, oldRoot)`. */
export function verifyConsistency(
  old: number,
  oldRoot: Hash,
  size: number,
  root: Hash,
  proof: readonly Hash[],
): boolean {
  if (!(old >= 0 && old <= size)) return false
  if (old === size) return proof.length === 0 && equal(oldRoot, root)
  if (old === 0) return proof.length === 0 && equal(oldRoot, EMPTY_ROOT)
  const path = isPowerOfTwo(old) ? [oldRoot, ...proof] : [...proof]
  const first = path.shift()
  if (!first) return false
  let fn = old - 1
  let sn = size - 1
  while (fn % 2 === 1) [fn, sn] = [Math.floor(fn / 2), Math.floor(sn / 2)]
  let fr = first
  let sr = first
  for (const c of path) {
    if (sn === 0) return false
    if (fn % 2 === 1 || fn === sn) {
      fr = nodeHash(c, fr)
      sr = nodeHash(c, sr)
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [fn / 2, Math.floor(sn / 2)]
    } else {
      sr = nodeHash(sr, c)
    }
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  return sn === 0 && equal(fr, oldRoot) && equal(sr, root)
}

const isPowerOfTwo = (n: number): boolean => Number.isInteger(Math.log2(n))

/** Plain comparison: roots and leaves are public. */
export const equal = (a: Hash, b: Hash): boolean => Buffer.compare(a, b) === 0

function at(hashes: readonly Hash[], index: number): Hash {
  const found = hashes[index]
  if (!found) throw new RangeError(`hash ${index} of ${hashes.length}`)
  return found
}
