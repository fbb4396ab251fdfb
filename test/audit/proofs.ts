/** The other side of a proof: what somebody does with it who has only the key. */
import { openCheckpoint } from '../../src/audit/checkpoint.ts'
import { decode, parseVerifierKey } from '../../src/audit/note.ts'
import { equal, type Hash, leafHash, nodeHash } from '../../src/audit/tlog.ts'

const MAGIC = 'c2sp.org/tlog-proof@v1'

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

/** True when `proof` shows `entry` in the log of `vkey`. Throws for what is no such proof. */
export function verifyProof(proof: string, entry: Uint8Array, vkey: string): boolean {
  const cut = proof.indexOf('\n\n')
  const [magic, ...lines] = proof.slice(0, Math.max(cut, 0)).split('\n')
  if (lines[0]?.startsWith('extra ')) lines.shift()
  const index = /^index (0|[1-9][0-9]{0,15})$/.exec(lines.shift() ?? '')?.[1]
  const hashes = lines.map(decode)
  if (
    magic !== MAGIC ||
    index === undefined ||
    !hashes.every((hash) => hash?.length === 32) ||
    hashes.length > 63
  ) {
    throw new Error('it is not a C2SP tlog-proof')
  }
  const { size, root } = openCheckpoint(proof.slice(cut + 2), parseVerifierKey(vkey))
  return verifyInclusion(leafHash(entry), Number(index), size, hashes as Buffer[], root)
}
