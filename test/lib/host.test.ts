import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { matchesHost, parseAuthority, parseHost, parseHostPattern } from '../../src/lib/host.ts'

/** The case catalogue's spellings: N-06, N-07, N-09, N-13, N-15. Also read by test/policy/agreement.test.ts. */
const { canonical: CANONICAL, refused: REFUSED } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../fixtures/host-vectors.json'), 'utf8'),
) as { canonical: [string, string][]; refused: string[] }

test('N-08, N-09, N-15: every spelling of a host has one canonical form', () => {
  for (const [text, canonical] of CANONICAL) assert.equal(parseHost(text), canonical, text)
})

test('N-06, N-07, N-13: ambiguous spellings are refused, not repaired', () => {
  for (const text of REFUSED) assert.equal(parseHost(text), null, JSON.stringify(text))
})

test('N-10: a wildcard matches strict subdomains only', () => {
  const matches = (host: string): boolean => matchesHost('*.example.com', host)
  assert.ok(matches('a.example.com'))
  assert.ok(matches('a.b.example.com'))
  for (const host of [
    'example.com',
    'notexample.com',
    'example.com.evil',
    'a.example.com.evil',
    '.example.com',
  ])
    assert.ok(!matches(host), host)
  assert.ok(matchesHost('example.com', 'example.com'))
  assert.ok(!matchesHost('example.com', 'a.example.com'))
})

test('N-14: patterns that would cover too much, or nothing sensible, are malformed', () => {
  for (const text of ['*', '*.', '*.com', '*.*.x.y', 'login.*.x', '**.x.y', '*.1.2', 'a*.x.y'])
    assert.equal(parseHostPattern(text), null, text)
  assert.equal(parseHostPattern('*.Example.com'), '*.example.com')
  assert.equal(parseHostPattern('Example.com.'), 'example.com')
})

test('N-11: an authority has at most one port, from 1 to 65535, without leading zeros', () => {
  assert.deepEqual(parseAuthority('A.com:8443', 443), { host: 'a.com', port: 8443 })
  assert.deepEqual(parseAuthority('a.com', 443), { host: 'a.com', port: 443 })
  assert.deepEqual(parseAuthority('[::1]:80', 443), { host: '::1', port: 80 })
  for (const text of [
    'a.com:0',
    'a.com:65536',
    'a.com:0443',
    'a.com:443:1',
    'a.com:',
    'u@a.com:443',
    'a.com:443.b',
    '::1:80',
  ])
    assert.equal(parseAuthority(text, 443), null, text)
})
