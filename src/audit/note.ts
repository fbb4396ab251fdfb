/** C2SP signed notes (https://c2sp.org/signed-note v1.0.0) with Ed25519 signatures (type 0x01). */
import {
  type KeyObject,
  createPrivateKey,
  createPublicKey,
  hash,
  sign as signBytes,
  verify,
} from 'node:crypto'
import { AmbitError } from '../lib/errors.ts'

const ED25519 = 1
const MAX_NOTE = 1 << 20
const MAX_SIGNATURES = 100
/** Non-empty, no Unicode space, no plus. */
const NAME = /^[^\s\u0085+]{1,255}$/u
// oxlint-disable-next-line no-control-regex -- the specification forbids exactly these
const CONTROL = /[\u0000-\u0009\u000b-\u001f]/

/** Who may have signed. */
export interface Verifier {
  readonly name: string
  readonly id: number
  verify(text: string, signature: Uint8Array): boolean
}

/** Who signs. */
export interface Signer {
  readonly name: string
  readonly id: number
  /** `name+hash+key`, to be given to others. */
  readonly vkey: string
  sign(text: string): Uint8Array
}

/** A verifier of a `name+hex8+base64` key. Throws ERR_KEY_INVALID. */
export function parseVerifierKey(vkey: string): Verifier {
  const { name, id, key } = splitKey(vkey)
  const publicKey = rawPublicKey(key)
  if (keyId(name, key) !== id) throw invalidKey('its hash does not belong to its name and key')
  return {
    name,
    id,
    verify: (text, signature) =>
      signature.length === 64 && verify(null, Buffer.from(text), publicKey, signature),
  }
}

/** A signer of a `PRIVATE+KEY+name+hex8+base64` key, the form of golang.org/x/mod/sumdb/note. Throws ERR_KEY_INVALID. */
export function parseSignerKey(skey: string): Signer {
  const prefix = 'PRIVATE+KEY+'
  if (!skey.startsWith(prefix)) throw invalidKey('it is not a private key')
  const { name, id, key: seed } = splitKey(skey.slice(prefix.length))
  const privateKey = rawPrivateKey(seed)
  const key = rawOf(createPublicKey(privateKey))
  if (keyId(name, key) !== id) throw invalidKey('its hash does not belong to its name and key')
  return {
    name,
    id,
    vkey: joinKey(name, id, key),
    sign: (text) => signBytes(null, Buffer.from(text), privateKey),
  }
}

/** The private key text of a 32-byte Ed25519 seed. */
export function formatSignerKey(name: string, seed: Uint8Array): string {
  if (!NAME.test(name)) throw new TypeError('bad key name')
  const id = keyId(name, rawOf(createPublicKey(rawPrivateKey(seed))))
  return `PRIVATE+KEY+${joinKey(name, id, seed)}`
}

/** Signs `text` (which ends in a newline). */
export function signNote(text: string, signer: Signer): string {
  if (!text.endsWith('\n') || CONTROL.test(text))
    throw new TypeError('a note ends in a newline and holds no control characters')
  const signature = Buffer.concat([u32(signer.id), signer.sign(text)]).toString('base64')
  return `${text}\n\u2014 ${signer.name} ${signature}\n`
}

/**
 * The text of `note` if `verifier` signed it; signatures by unknown keys are ignored. Everything in the note is the
 * attacker's until this returns. Throws ERR_LOG_INCONSISTENT.
 */
export function openNote(note: string, verifier: Verifier): string {
  const { text, lines } = splitNote(note)
  let signed = false
  for (const line of lines) {
    const { name, bytes } = parseSignature(line)
    if (name !== verifier.name || bytes.readUInt32BE(0) !== verifier.id) continue
    if (!verifier.verify(text, bytes.subarray(4))) throw badNote('the signature does not fit the text')
    signed = true
  }
  if (!signed) throw badNote('the expected key did not sign it')
  return text
}

/** Splits on the last blank line, as the specification says: the text may hold blank lines itself. */
function splitNote(note: string): { text: string; lines: string[] } {
  if (note.length > MAX_NOTE) throw badNote('too long')
  if (CONTROL.test(note) || !note.isWellFormed()) throw badNote('control characters')
  const cut = note.lastIndexOf('\n\n')
  if (cut < 0 || !note.endsWith('\n')) throw badNote('no signatures')
  const lines = note.slice(cut + 2, -1).split('\n')
  if (lines.length > MAX_SIGNATURES) throw badNote('too many signatures')
  return { text: note.slice(0, cut + 1), lines }
}

function parseSignature(line: string): { name: string; bytes: Buffer } {
  const match = /^\u2014 ([^ ]+) ([A-Za-z0-9+/]+={0,2})$/u.exec(line)
  const name = match?.[1] ?? ''
  const bytes = decode(match?.[2] ?? '')
  if (!NAME.test(name) || !bytes || bytes.length < 5) throw badNote('a signature line is malformed')
  return { name, bytes }
}

function splitKey(text: string): { name: string; id: number; key: Buffer } {
  // The name holds no plus; base64 does.
  const match = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(text)
  const bytes = decode(match?.[3] ?? '')
  const name = match?.[1] ?? ''
  if (!match || !NAME.test(name) || !bytes) throw invalidKey('it is not of the form name+hash+key')
  if (bytes[0] !== ED25519 || bytes.length !== 33) throw invalidKey('it is not an Ed25519 key')
  return { name, id: Number.parseInt(match[2] ?? '', 16), key: bytes.subarray(1) }
}

const joinKey = (name: string, id: number, key: Uint8Array): string =>
  `${name}+${id.toString(16).padStart(8, '0')}+${Buffer.concat([Uint8Array.of(ED25519), key]).toString('base64')}`

/** First four bytes of SHA-256(name ‖ newline ‖ type ‖ key). */
function keyId(name: string, key: Uint8Array): number {
  return hash(
    'sha256',
    Buffer.concat([Buffer.from(`${name}\n`), Uint8Array.of(ED25519), key]),
    'buffer',
  ).readUInt32BE(0)
}

/** Node takes keys as DER; these are the fixed headers of RFC 8410 in front of 32 bytes. */
const rawPublicKey = (key: Uint8Array): KeyObject =>
  createPublicKey({
    key: Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), key]),
    format: 'der',
    type: 'spki',
  })

const rawPrivateKey = (seed: Uint8Array): KeyObject =>
  createPrivateKey({
    key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed]),
    format: 'der',
    type: 'pkcs8',
  })

const rawOf = (key: KeyObject): Buffer => key.export({ format: 'der', type: 'spki' }).subarray(-32)

/** Strict base64: one spelling for each value, so that no two texts are the same note. */
export function decode(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64')
  return bytes.toString('base64') === text ? bytes : undefined
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

const badNote = (why: string): AmbitError =>
  new AmbitError('ERR_LOG_INCONSISTENT', 'the signed note was refused', why)
const invalidKey = (why: string): AmbitError => new AmbitError('ERR_KEY_INVALID', 'the key was refused', why)
