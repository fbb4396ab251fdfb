/** Signatures in minisign's form (Ed25519, prehashed with BLAKE2b-512), so that `minisign -V` checks them, too. */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  verify,
} from 'node:crypto'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../../lib/make-dir.ts'
import { AmbitError, errnoOf } from '../../lib/errors.ts'

const KEY = 'image.key'
const ALGORITHM = Buffer.from('Ed')
const PREHASHED = Buffer.from('ED')
/** DER header of an Ed25519 public key (RFC 8410). */
const SPKI = Buffer.from('302a300506032b6570032100', 'hex')
const ID_BYTES = 8
const MAX_SIGNATURE = 4096

/** A key pair and the number by which minisign tells keys apart. */
export interface ImageKey {
  readonly id: Buffer
  readonly publicKey: KeyObject
  readonly privateKey: KeyObject
}

/** What signatures are checked by. */
export type ImagePublicKey = Pick<ImageKey, 'id' | 'publicKey'>

/** The key in `dir`; null when there is none. @throws AmbitError ERR_KEY_INVALID */
export function loadImageKey(dir: string): ImageKey | null {
  const path = join(dir, KEY)
  let text: string
  try {
    const stat = fs.lstatSync(path)
    if (!stat.isFile() || stat.uid !== process.getuid?.() || stat.mode & 0o077)
      throw invalid(path, 'it is not a file that only this account can read')
    text = fs.readFileSync(path, 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null
    throw error
  }
  const [id = '', ...pem] = text.split('\n')
  if (!/^[0-9a-f]{16}$/.test(id)) throw invalid(path, 'it does not begin with its number')
  try {
    const privateKey = createPrivateKey(pem.join('\n'))
    return { id: Buffer.from(id, 'hex'), privateKey, publicKey: createPublicKey(privateKey) }
  } catch {
    throw invalid(path, 'it holds no private key')
  }
}

/** The key in `dir`, made at first use: 0600, never replaced. */
export function loadOrMakeImageKey(dir: string): ImageKey {
  const there = loadImageKey(dir)
  if (there) return there
  makeDir(dir)
  const { privateKey } = generateKeyPairSync('ed25519')
  const text = `${randomBytes(ID_BYTES).toString('hex')}\n${String(privateKey.export({ format: 'pem', type: 'pkcs8' }))}`
  fs.writeFileSync(join(dir, KEY), text, { mode: 0o600, flag: 'wx', flush: true })
  return loadOrMakeImageKey(dir)
}

/** As `minisign -p` takes it: a comment and one line. */
export function formatPublicKey({ id, publicKey }: ImageKey): string {
  const raw = publicKey.export({ format: 'der', type: 'spki' }).subarray(SPKI.length)
  const number = Buffer.from(id).reverse().toString('hex').toUpperCase()
  const line = Buffer.concat([ALGORITHM, id, raw]).toString('base64')
  return `untrusted comment: minisign public key ${number}\n${line}\n`
}

/** Takes what `formatPublicKey` and `minisign -G` write; null for anything else. */
export function parsePublicKey(text: string): ImagePublicKey | null {
  const line = text.trimEnd().split('\n').at(-1) ?? ''
  const bytes = Buffer.from(line, 'base64')
  if (bytes.length !== 2 + ID_BYTES + 32 || !bytes.subarray(0, 2).equals(ALGORITHM)) return null
  const raw = bytes.subarray(2 + ID_BYTES)
  const key = Buffer.concat([SPKI, raw])
  return {
    id: bytes.subarray(2, 2 + ID_BYTES),
    publicKey: createPublicKey({ key, format: 'der', type: 'spki' }),
  }
}

/** A `.minisig` file for `content`. */
export function signContent(content: Buffer, key: ImageKey, comment: string): string {
  const signature = sign(null, digestOf(content), key.privateKey)
  const all = sign(null, Buffer.concat([signature, Buffer.from(comment)]), key.privateKey)
  const line = Buffer.concat([PREHASHED, key.id, signature]).toString('base64')
  return `untrusted comment: signature from an Ambit image key\n${line}\ntrusted comment: ${comment}\n${all.toString('base64')}\n`
}

/** Why `signature` does not vouch for `content` under `key`; null when it does. All of `signature` is the attacker's. */
export function reasonToDistrust(content: Buffer, signature: string, key: ImagePublicKey): string | null {
  const [, line = '', trusted = '', all = ''] = signature.slice(0, MAX_SIGNATURE).split('\n')
  const bytes = Buffer.from(line, 'base64')
  const comment = /^trusted comment: (.*)$/.exec(trusted)?.[1]
  if (bytes.length !== 2 + ID_BYTES + 64 || comment === undefined) return 'its signature is malformed'
  if (!bytes.subarray(0, 2).equals(PREHASHED)) return 'its signature is of another kind'
  if (!bytes.subarray(2, 2 + ID_BYTES).equals(key.id)) return 'another key signed it'
  const own = bytes.subarray(2 + ID_BYTES)
  if (!verify(null, digestOf(content), key.publicKey, own)) return 'its signature does not fit it'
  const global = Buffer.concat([own, Buffer.from(comment)])
  return verify(null, global, key.publicKey, Buffer.from(all, 'base64'))
    ? null
    : 'its signature does not fit it'
}

const digestOf = (content: Buffer): Buffer => createHash('blake2b512').update(content).digest()

const invalid = (path: string, why: string): AmbitError =>
  new AmbitError(
    'ERR_KEY_INVALID',
    `could not use the key ${path}`,
    why,
    `move it away and build the image anew`,
  )
