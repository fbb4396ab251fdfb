import assert from 'node:assert/strict'
import { test } from 'node:test'
import { matchesHost, parseAuthority, parseHost, parseHostPattern } from '../../src/lib/host.ts'

const CANONICAL: readonly (readonly [string, string])[] = [
  ['api.example.com', 'api.example.com'],
  ['Api.EXAMPLE.com.', 'api.example.com'],
  ['localhost', 'localhost'],
  ['a-b.c0m', 'a-b.c0m'],
  ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
  ['XN--BCHER-KVA.example', 'xn--bcher-kva.example'],
  // N-09: what inet_aton takes for an address is that address.
  ['127.0.0.1', '127.0.0.1'],
  ['127.1', '127.0.0.1'],
  ['0x7f.0.0.1', '127.0.0.1'],
  ['2130706433', '127.0.0.1'],
  ['017700000001', '127.0.0.1'],
  ['0x7f000001', '127.0.0.1'],
  // N-15
  ['::1', '::1'],
  ['[::1]', '::1'],
  ['2001:DB8:0:0::1', '2001:db8::1'],
  ['::ffff:127.0.0.1', '::ffff:7f00:1'],
]

test('N-08, N-09, N-15: every spelling of a host has one canonical form', () => {
  for (const [text, canonical] of CANONICAL) assert.equal(parseHost(text), canonical, text)
})

const REFUSED = [
  '',
  '.',
  'evil\0.allowed.com', // N-06
  'a\r\nb.com',
  'a b.com',
  'a\tb.com',
  'evil%00.allowed.com',
  'evil%2eallowed.com',
  'user@allowed.com',
  'allowed.com#',
  'allowed.com/',
  'allowed.com\\evil',
  'under_score.com',
  'a..b',
  '.a.b',
  'a.b..',
  `${'a'.repeat(64)}.com`,
  `${'a.'.repeat(127)}abc`,
  'bücher.example',
  'ex\u0430mple.com', // a Cyrillic letter (N-13)
  '\u212aube.example', // the Kelvin sign folds to k
  '-a.com',
  'a-.com',
  'xn--a.example',
  'xn--.example',
  '1.2.3.4.5',
  '256.1.1.1',
  '0x.example.0x',
  'fe80::1%eth0',
  '[::1',
  '::1]',
  'a:443',
]

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
