/** OCSF 1.8.0 objects that several classes hold. */
import { basename } from 'node:path'
import type { TlsFacts } from './fact.ts'

/** `path` as the agent named it; type 1 is a regular file. */
export const fileObject = (path: string, more: Record<string, unknown> = {}): Record<string, unknown> => ({
  name: basename(path) || path || '/',
  path,
  type_id: 1,
  ...more,
})

/** Algorithm 3 is SHA-256. */
export const sha256Hash = (sha256: string | null): Record<string, unknown> =>
  sha256 === null ? {} : { hashes: [{ algorithm_id: 3, value: sha256 }] }

/** The agent's side of a connection: it has no address that means anything outside its own namespace. */
export const AGENT = { name: 'session' }

export const endpoint = (host: string, address?: string, port?: number): Record<string, unknown> => ({
  ...(host || !address ? { hostname: host || 'unknown' } : {}),
  ...(address ? { ip: address } : {}),
  ...(port === undefined ? {} : { port }),
})

export const TCP = { direction_id: 2, protocol_name: 'tcp', protocol_num: 6 }

/** OCSF wants a serial number, which the fact does not have; its digest names the certificate. */
export function tlsObject(tls: TlsFacts | null): Record<string, unknown> {
  if (!tls) return {}
  const { version, subject, issuer, sha256 } = tls
  const certificate = {
    subject,
    issuer,
    serial_number: 'not recorded',
    fingerprints: [{ algorithm_id: 3, value: sha256 }],
  }
  return { tls: { version, certificate } }
}

export const processObject = (pid: number, path?: string): Record<string, unknown> => ({
  pid,
  ...(path === undefined ? {} : { name: fileObject(path).name, file: fileObject(path) }),
})
