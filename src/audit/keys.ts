/** The device's log key: Ed25519, one line, 0600, in the form of golang.org/x/mod/sumdb/note. */
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { join } from 'node:path'
import { makeDir } from '../lib/make-dir.ts'
import { AmbitError, errnoOf, messageOf } from '../lib/errors.ts'
import { type Paths, keysDir } from '../lib/paths.ts'
import { type Signer, formatSignerKey, parseSignerKey } from './note.ts'

const KEY = 'log.key'

/** The verifier key of this device's log, to be given to others. Throws ERR_KEY_INVALID when there is none. */
export const loadVerifierKey = (paths: Paths): string => loadSigner(keysDir(paths)).vkey

/** The key in `dir`. Throws ERR_KEY_INVALID. */
function loadSigner(dir: string): Signer {
  const path = join(dir, KEY)
  try {
    return parseSignerKey(readPrivate(path).trim())
  } catch (error) {
    if (error instanceof AmbitError) throw error
    if (errnoOf(error) === 'ENOENT') throw invalid(path, 'there is none; the first session makes it')
    throw invalid(path, messageOf(error), error)
  }
}

/** The key in `dir`; makes one only when `log` (the log's directory) does not exist, for it could not continue that. */
export function loadOrMakeSigner(dir: string, log: string): Signer {
  if (!fs.existsSync(join(dir, KEY))) {
    if (fs.existsSync(join(log, 'state.json')))
      throw invalid(join(dir, KEY), 'it is gone, but its log is there')
    makeKey(dir)
  }
  return loadSigner(dir)
}

/** Writes a new key; when two processes do, one key wins and both use it. */
function makeKey(dir: string): void {
  makeDir(dir)
  const text = `${formatSignerKey(`ambit.invalid/${randomBytes(8).toString('hex')}`, randomBytes(32))}\n`
  const temporary = join(dir, `.${KEY}.${process.pid}`)
  const fd = fs.openSync(temporary, 'wx', 0o600)
  try {
    fs.writeSync(fd, text)
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
  try {
    // link, not rename: it never replaces a key.
    fs.linkSync(temporary, join(dir, KEY))
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error
  } finally {
    fs.unlinkSync(temporary)
  }
  syncDir(dir)
}

function readPrivate(path: string): string {
  const fd = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
  try {
    const stat = fs.fstatSync(fd)
    if (!stat.isFile() || stat.uid !== process.getuid?.())
      throw invalid(path, 'it is not a file of this account')
    if (stat.mode & 0o077) throw invalid(path, 'other accounts may read it', undefined, `chmod 600 ${path}`)
    return fs.readFileSync(fd, 'utf8')
  } finally {
    fs.closeSync(fd)
  }
}

function syncDir(dir: string): void {
  const fd = fs.openSync(dir, 'r')
  try {
    fs.fsyncSync(fd)
  } finally {
    fs.closeSync(fd)
  }
}

function invalid(path: string, why: string, cause?: unknown, remedy?: string): AmbitError {
  return new AmbitError('ERR_KEY_INVALID', `could not use the key ${path}`, why, remedy, { cause })
}
