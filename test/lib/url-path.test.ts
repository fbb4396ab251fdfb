import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isPathGlob, isPlainPath, matchesPath, pathOf } from '../../src/lib/url-path.ts'

const MATCHES: readonly (readonly [string, string, boolean])[] = [
  ['/v1/messages', '/v1/messages', true],
  ['/v1/messages', '/v1/messages/', false],
  ['/v1/messages', '/v1/message', false],
  ['/v1/messages*', '/v1/messages', true],
  ['/v1/messages*', '/v1/messages/count_tokens/x', true],
  ['/v1/messages*', '/v1/files', false],
  ['/v1/*/items', '/v1/a/items', true],
  ['/v1/*/items', '/v1/a/b/items', false],
  ['/v1/*/items', '/v1//items', true],
  ['/*', '/', true],
  ['/*', '/any/thing', true],
  ['/a/**', '/a/b/c', true],
  ['/a/**', '/ab', false],
  ['/r/*.git/*', '/r/x.git/info/refs', true],
  ['/r/*.git/*', '/r/x/y.git/info', false],
  ['/a*b*c', '/aXbXbYc', true],
  ['/a*b*c', '/aXbX/c', false],
  ['/a*b/c*d', '/axb/cyd', true],
  ['/a*b/c*d', '/axb/c/d', false],
]

test('globs match within a segment, and any rest at the end', () => {
  for (const [glob, path, expected] of MATCHES)
    assert.equal(matchesPath(glob, path), expected, `${glob} ${path}`)
})

test('N-32: spellings that servers read differently are not plain', () => {
  for (const path of [
    '/a/../b',
    '/a/./b',
    '/..',
    '/a//b',
    '/a%2fb',
    '/a%2Fb',
    '/%2e%2e/b',
    '/%61dmin',
    '/a%252fb',
    '/a;b',
    '/a%3bb',
    '/a\\b',
    '/a%5cb',
    '/a%00',
    '/a%0d%0a',
    '/a%',
    '/a%zz',
    '/a%c0%ae%c0%ae/b',
    '/a%c0%afb',
    '/a%ff',
    '/a%ef%bc%8fb',
    '/%ef%bc%8e%ef%bc%8e/b',
    '/a/%e2%80%a5/b',
    '/ä',
    'a/b',
    '',
  ])
    assert.ok(!isPlainPath(path), path)
  for (const path of [
    '/',
    '/v1/messages',
    '/a/b.c/~d/',
    '/a%20b',
    '/caf%C3%A9',
    '/@scope/name',
    '/a...b',
    '/x:y=z,1',
  ])
    assert.ok(isPlainPath(path), path)
})

test('a pattern cannot be made to explode', () => {
  const started = performance.now()
  assert.ok(!matchesPath('/*a*a*a*a*a*a*a*b', `/${'a'.repeat(60_000)}`))
  assert.ok(performance.now() - started < 5000)
})

test('the query is not part of the path', () => {
  assert.equal(pathOf('/a?b=/c'), '/a')
  assert.equal(pathOf('/a'), '/a')
})

test('malformed globs are told apart', () => {
  for (const glob of ['/a', '/a*', '/a/**', '/*/b']) assert.ok(isPathGlob(glob), glob)
  for (const glob of ['a', '', '/a?b', '/a#b', '/a/**/b', '/a b']) assert.ok(!isPathGlob(glob), glob)
})
