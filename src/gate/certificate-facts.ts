import type { DetailedPeerCertificate, PeerCertificate, TLSSocket } from 'node:tls'
import type { TlsFacts } from '../audit/fact.ts'

/** What is recorded of a verified upstream certificate. The names in it are the server's, so attacker-controlled. */
export function tlsFacts(socket: TLSSocket): TlsFacts {
  const certificate: DetailedPeerCertificate | PeerCertificate = socket.getPeerCertificate()
  return {
    version: socket.getProtocol() ?? '',
    subject: distinguishedName(certificate.subject),
    issuer: distinguishedName(certificate.issuer),
    sha256: (certificate.fingerprint256 ?? '').replaceAll(':', '').toLowerCase(),
    notAfter: certificate.valid_to ? new Date(certificate.valid_to).toISOString() : '',
  }
}

function distinguishedName(name: object | undefined): string {
  return Object.entries(name ?? {})
    .map(([key, value]) => `${key}=${String(value)}`)
    .join(', ')
    .slice(0, 500)
}
