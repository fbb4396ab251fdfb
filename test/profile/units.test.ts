import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/lib/units.ts'

test('sizes', () => {
  for (const [text, bytes] of [
    ['4MiB', 4_194_304],
    ['1.5GiB', 1_610_612_736],
    ['10kB', 10_000],
    ['0B', 0],
    ['1TiB', 2 ** 40],
  ] as const) {
    assert.equal(parseSize(text), bytes)
  }
  for (const bad of [
    '',
    '4',
    'MiB',
    '-1MiB',
    '4 MiB',
    '4mib',
    '1e3B',
    '0x4B',
    '4MiB ',
    '٤MiB',
    '9999999TiB',
    '1_000B',
  ])
    assert.equal(parseSize(bad), null, bad)
  assert.deepEqual([0, 1, 1024, 1536, 4_194_304, 2 ** 41].map(formatSize), [
    '0 bytes',
    '1 bytes',
    '1 KiB',
    '1.5 KiB',
    '4 MiB',
    '2 TiB',
  ])
})

test('times', () => {
  for (const [text, ms] of [
    ['90s', 90_000],
    ['8h', 28_800_000],
    ['1d', 86_400_000],
    ['250ms', 250],
    ['1.5m', 90_000],
  ] as const) {
    assert.equal(parseDuration(text), ms)
  }
  for (const bad of ['', '8', 'h', '8 h', '8H', '-1s', '1w', 'Infinitys'])
    assert.equal(parseDuration(bad), null, bad)
  assert.deepEqual([90_000, 28_800_000, 86_400_000, 1500].map(formatDuration), [
    '90 s',
    '8 h',
    '1 d',
    '1500 ms',
  ])
})
