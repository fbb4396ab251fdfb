/** What a verifier holds an attestation against: a log and an image's manifest, each verified by its own key. */
import { createHash } from 'node:crypto'
import { dirname, join } from 'node:path'
import { loadVerifierKey } from '../../audit/keys.ts'
import { readEvents } from '../../audit/read.ts'
import { verifyLog } from '../../audit/verify.ts'
import { AmbitError } from '../../lib/errors.ts'
import { imagesDir, keysDir, logDir, type Paths } from '../../lib/paths.ts'
import { readSmallFile } from '../../lib/small-file.ts'
import { MANIFEST, type Manifest, parseManifest } from '../microvm-image/manifest.ts'
import {
  type ImagePublicKey,
  loadImageKey,
  parsePublicKey,
  reasonToDistrust,
} from '../microvm-image/minisign.ts'
import { signedSnapshot, signedSnapshots } from '../microvm-image/snapshot.ts'
import { type Attestation, type Quoted, quotedSchema } from './document.ts'
import { type Expectation, lastNonce } from './verify.ts'

/** Where a verifier's own copies lie; what is left out is this machine's. */
export interface Sources {
  readonly paths: Paths
  /** Directory of the log's tiles, and the C2SP verifier key that must have signed it. */
  readonly log?: string
  readonly logKey?: string
  /** The image's manifest; its signature lies beside it. */
  readonly manifest?: string
  /** `snapshot.json` of the one that the machine went on from; its signature lies beside it. */
  readonly snapshot?: string
  /** minisign public key, a file. */
  readonly imageKey?: string
  /** SHA-256 of the profile that the session should have had; else the one of its record. */
  readonly profile?: string
}

const MAX_MANIFEST = 8 << 20
const MAX_KEY = 4096

/** @throws AmbitError ERR_INPUT_INVALID, ERR_LOG_INCONSISTENT or ERR_KEY_INVALID: there is nothing to hold it against. */
export async function expectationOf(session: string, nonce: string, sources: Sources): Promise<Expectation> {
  const { paths } = sources
  const dir = sources.log ?? logDir(paths)
  const log = await verifyLog(dir, sources.logKey ?? loadVerifierKey(paths))
  if (!log.ok)
    throw new AmbitError(
      'ERR_LOG_INCONSISTENT',
      `log ${dir}`,
      log.why,
      'ambit log verify says where it breaks',
    )
  const record = recordOf(dir, session)
  const key = imageKeyOf(sources)
  const { manifest, image } = readManifest(sources, key)
  const snapshots =
    sources.snapshot === undefined
      ? signedSnapshots(paths, image, key)
      : signedSnapshot(sources.snapshot, image, key)
  return { session, nonce, record, manifest, image, snapshots, profile: sources.profile ?? record.profile }
}

interface Record {
  readonly ak: string
  readonly eventLog: string
  readonly profile: string
}

/** What the log has of the session's start. */
function recordOf(dir: string, session: string): Record {
  const found: { ak?: string; eventLog?: string; profile?: string }[] = []
  for (const event of readEvents(dir, { session })) {
    const { ambit } = JSON.parse(event.json) as { ambit?: { tpm?: object; planDigest?: string } }
    if (event.kind === 'session.start') found.push({ profile: ambit?.planDigest ?? '' })
    if (event.kind === 'machine.measured') found.push({ ...ambit?.tpm })
  }
  const { ak, eventLog, profile } = Object.assign({}, ...found) as (typeof found)[number]
  if (found.length === 2 && ak !== undefined && eventLog !== undefined && profile !== undefined)
    return { ak, eventLog, profile }
  throw new AmbitError(
    'ERR_INPUT_INVALID',
    session,
    found.length > 2 ? 'the log has more than one start of it' : 'the log has no measured start of it',
    'only microvm sessions are measured; ambit log --session ID shows what there is',
  )
}

function readManifest(sources: Sources, key: ImagePublicKey): { manifest: Manifest; image: string } {
  const path = sources.manifest ?? join(imagesDir(sources.paths), 'default', MANIFEST)
  const text = readSmallFile(path, MAX_MANIFEST)
  const signature = readSmallFile(`${path}.minisig`, MAX_KEY)
  if (text === null) throw unusable(path, 'it cannot be read')
  if (signature === null) throw unusable(path, 'it is not signed')
  const bytes = Buffer.from(text)
  const why = reasonToDistrust(bytes, signature, key)
  if (why !== null) throw unusable(path, why)
  try {
    return { manifest: parseManifest(bytes), image: createHash('sha256').update(bytes).digest('hex') }
  } catch {
    throw unusable(path, 'it is of another version')
  }
}

function imageKeyOf({ paths, imageKey }: Sources): ImagePublicKey {
  const place = imageKey ?? keysDir(paths)
  const key =
    imageKey === undefined ? loadImageKey(place) : parsePublicKey(readSmallFile(imageKey, MAX_KEY) ?? '')
  if (key) return key
  throw new AmbitError(
    'ERR_KEY_INVALID',
    `could not use the image key ${imageKey ?? `in ${dirname(place)}`}`,
    imageKey === undefined ? 'there is none' : 'it is no public key of minisign',
    'ambit image key prints it where the image was built',
  )
}

const unusable = (path: string, why: string): AmbitError =>
  new AmbitError(
    'ERR_INPUT_INVALID',
    `the manifest ${path}`,
    why,
    'take the one of the image that the session ran',
  )

/** The last quote of a session that has ended, from this machine's log; null where it has none. */
export function lastQuoteOf(paths: Paths, session: string): Attestation | null {
  let tpm: Partial<Quoted> = {}
  for (const event of readEvents(logDir(paths), { session })) {
    const { ambit } = JSON.parse(event.json) as { ambit?: { tpm?: Partial<Quoted>; quote?: Partial<Quoted> } }
    if (event.kind === 'machine.measured') tpm = { ...tpm, ...ambit?.tpm }
    if (event.kind === 'machine.quote' && ambit?.quote?.nonce === lastNonce(session))
      tpm = { ...tpm, ...ambit.quote }
  }
  const { nonce, ak, eventLog, quote, signature } = tpm
  const quoted = quotedSchema.safeParse({ nonce, ak, eventLog, quote, signature })
  return quoted.success ? { v: 1, session, ...quoted.data } : null
}
