import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openCheckpoint, signCheckpoint } from '../../src/audit/checkpoint.ts'
import {
  formatSignerKey,
  openNote,
  parseSignerKey,
  parseVerifierKey,
  signNote,
} from '../../src/audit/note.ts'
import { EMPTY_ROOT } from '../../src/audit/tlog.ts'

// From c2sp.org/signed-note, "Example".
const VKEY = 'example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k'
const NOTE =
  'This is an example message.\n\n\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n'
const refused = { code: 'ERR_LOG_INCONSISTENT' }

const signer = (name = 'ambit.invalid/a', fill = 7) =>
  parseSignerKey(formatSignerKey(name, Buffer.alloc(32, fill)))

test('opens the example of the specification', () => {
  assert.equal(openNote(NOTE, parseVerifierKey(VKEY)), 'This is an example message.\n')
})

test('refuses the example with any one byte changed', () => {
  const bytes = Buffer.from(NOTE)
  for (let i = 0; i < bytes.length; i++) {
    const changed = Buffer.from(bytes)
    changed[i]! ^= 1
    assert.throws(() => openNote(changed.toString('utf8'), parseVerifierKey(VKEY)), refused, `byte ${i}`)
  }
})

test('opens what it signed, also with signatures of unknown keys beside its own', () => {
  const own = signer()
  const note = signNote('text\n\nwith a blank line\n', own)
  const other = signNote('text\n\nwith a blank line\n', signer('other.example', 9)).split('\n').at(-2)
  const both = `${note}${other}\n`
  assert.equal(openNote(both, parseVerifierKey(own.vkey)), 'text\n\nwith a blank line\n')
  assert.equal(
    openNote(both, parseVerifierKey(signer('other.example', 9).vkey)),
    'text\n\nwith a blank line\n',
  )
})

test('refuses a note that only unknown keys signed, or a known name under another key', () => {
  const note = signNote('text\n', signer('ambit.invalid/a', 9))
  assert.throws(() => openNote(note, parseVerifierKey(signer().vkey)), refused)
})

test('refuses a note in which one line of the known key fails, although another fits', () => {
  const own = signer()
  const good = signNote('text\n', own)
  const bad = signNote('other\n', own).split('\n').at(-2)
  assert.throws(() => openNote(`${good}${bad}\n`, parseVerifierKey(own.vkey)), refused)
})

test('refuses keys whose hash, type, length or base64 is wrong', () => {
  assert.ok(parseVerifierKey(VKEY))
  for (const bad of [
    VKEY.replace('530d903a', '530d903b'),
    VKEY.replace('+Ae', '+Be'),
    VKEY.slice(0, -4),
    `${VKEY}=`,
    VKEY.replace('example.com/foo', 'example.com /foo'),
    VKEY.replace('example.com/foo', ''),
    '',
  ]) {
    assert.throws(() => parseVerifierKey(bad), { code: 'ERR_KEY_INVALID' }, bad)
  }
})

test('refuses a checkpoint whose origin is another log, and malformed ones', () => {
  const own = signer()
  const verifier = parseVerifierKey(own.vkey)
  const root = Buffer.from(EMPTY_ROOT).toString('base64')
  assert.equal(openCheckpoint(signCheckpoint(0, EMPTY_ROOT, own), verifier).size, 0)
  assert.equal(openCheckpoint(signNote(`${own.name}\n5\n${root}\nextension\n`, own), verifier).size, 5)
  for (const text of [
    `ambit.invalid/b\n0\n${root}\n`,
    `${own.name}\n00\n${root}\n`,
    `${own.name}\n-1\n${root}\n`,
    `${own.name}\n1e3\n${root}\n`,
    `${own.name}\n9007199254740993\n${root}\n`,
    `${own.name}\n1\n${root.slice(4)}\n`,
    `${own.name}\n1\n`,
    `${own.name}\n`,
  ]) {
    assert.throws(() => openCheckpoint(signNote(text, own), verifier), refused, text)
  }
})
