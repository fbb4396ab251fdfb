import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { compileGlobs, parseGlob } from '../../src/lib/glob.ts'

interface Vectors {
  cases: { globs: string[]; matches: string[]; misses: string[] }[]
  invalid: string[]
}
const vectors = JSON.parse(
  readFileSync(new URL('../fixtures/glob-vectors.json', import.meta.url), 'utf8'),
) as Vectors

test('answers the vectors that the Rust twin answers', () => {
  let count = 0
  for (const { globs, matches, misses } of vectors.cases) {
    const matcher = compileGlobs(globs)
    for (const path of matches) assert.equal(matcher(path), true, `${JSON.stringify(globs)} on ${path}`)
    for (const path of misses) assert.equal(matcher(path), false, `${JSON.stringify(globs)} on ${path}`)
    count += matches.length + misses.length
  }
  assert.ok(count >= 80, `only ${count} cases`)
})

test('refuses patterns that would not mean what they seem to', () => {
  for (const pattern of vectors.invalid)
    assert.throws(() => parseGlob(pattern), { code: 'ERR_INPUT_INVALID' }, JSON.stringify(pattern))
})
