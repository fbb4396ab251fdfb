import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  EMPTY_ROOT,
  type Hash,
  type HashReader,
  foldHashes,
  inclusionProof,
  leafHash,
  nodeHash,
  treeRoot,
} from '../../src/audit/tlog.ts'
import { verifyInclusion } from './proofs.ts'

const base64 = (hash: Hash): string => Buffer.from(hash).toString('base64')
const leaves = (count: number): Hash[] =>
  Array.from({ length: count }, (_, i) => leafHash(Buffer.from(`e${i}`)))

/** MTH and PATH exactly as RFC 6962 §2.1 defines them, on a plain list: the oracle. */
function mth(d: Hash[]): Hash {
  if (d.length === 0) return EMPTY_ROOT
  if (d.length === 1) return d[0]!
  const k = split(d.length)
  return nodeHash(mth(d.slice(0, k)), mth(d.slice(k)))
}
function path(m: number, d: Hash[]): Hash[] {
  if (d.length === 1) return []
  const k = split(d.length)
  return m < k
    ? [...path(m, d.slice(0, k)), mth(d.slice(k))]
    : [...path(m - k, d.slice(k)), mth(d.slice(0, k))]
}
const split = (n: number): number => 2 ** Math.ceil(Math.log2(n) - 1)

const reader =
  (d: Hash[]): HashReader =>
  (level, index) =>
    foldHashes(d.slice(index * 2 ** level, (index + 1) * 2 ** level))

test('gives the vectors of golang.org/x/mod/sumdb/tlog', () => {
  assert.equal(base64(EMPTY_ROOT), '47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=')
  assert.equal(base64(leafHash(Buffer.from(''))), 'bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=')
  assert.equal(base64(leafHash(Buffer.from('hello'))), 'iipcm3aIJ95alVLDigRMZpWcaPbS8htSYK9U0vh9uCc=')
  const seven = reader(leaves(7))
  assert.equal(base64(treeRoot(7, seven)), 'TL2ONYSUUEANTpxMCuf3HHmtRBD5rSxiRiL/X4YXMT0=')
  assert.deepEqual(inclusionProof(3, 7, seven).map(base64), [
    '526xuXsGdXFQ+V4GNXp9xATKURtjqQMwpWqU3z0NZtE=',
    'cY+gNp10dQmbxstDJ+OCOklyKF+SvUmXGlg8nwj/to0=',
    '9fNP4FejGK1lmZw0+Msnd3fjNkUp/nARcLCQjQMUxEI=',
  ])
})

test('equals the definitions of RFC 6962 for every tree up to 40 and index', () => {
  for (let size = 0; size <= 40; size++) {
    const d = leaves(size)
    const read = reader(d)
    const root = treeRoot(size, read)
    assert.deepEqual(base64(root), base64(mth(d)))
    for (let i = 0; i < size; i++) {
      const proof = inclusionProof(i, size, read)
      assert.deepEqual(proof.map(base64), path(i, d).map(base64))
      assert.ok(verifyInclusion(d[i]!, i, size, proof, root))
    }
  }
})

test('refuses a proof for another leaf, place, size or root, and one that is longer or shorter', () => {
  for (const size of [1, 2, 3, 5, 8, 13, 21]) {
    const d = leaves(size)
    const root = mth(d)
    const other = leafHash(Buffer.from('forged'))
    for (let i = 0; i < size; i++) {
      const proof = inclusionProof(i, size, reader(d))
      assert.ok(verifyInclusion(d[i]!, i, size, proof, root))
      assert.ok(!verifyInclusion(other, i, size, proof, root))
      assert.ok(!verifyInclusion(d[i]!, i, size, proof, other))
      for (let j = 0; j < size; j++) if (j !== i) assert.ok(!verifyInclusion(d[i]!, j, size, proof, root))
      assert.ok(!verifyInclusion(d[i]!, i, size, [...proof, other], root))
      if (proof.length) assert.ok(!verifyInclusion(d[i]!, i, size, proof.slice(1), root))
      assert.ok(!verifyInclusion(d[i]!, size, size, proof, root))
    }
  }
})

test('holds for sizes beyond 32 bits', () => {
  const same: HashReader = (level) =>
    level === 0 ? leafHash(Buffer.from('x')) : nodeHash(same(level - 1, 0), same(level - 1, 0))
  const memo = new Map<number, Hash>()
  const read: HashReader = (level) =>
    memo.get(level) ??
    memo.set(level, level === 0 ? same(0, 0) : nodeHash(read(level - 1, 0), read(level - 1, 0))).get(level)!
  const size = 2 ** 40 + 2 ** 33 + 5
  const root = treeRoot(size, read)
  for (const index of [0, 2 ** 33, 2 ** 40 + 1, size - 1]) {
    assert.ok(verifyInclusion(read(0, 0), index, size, inclusionProof(index, size, read), root))
  }
})
