/**
 * Protocols that never pass: recognised by their first bytes or, where the server speaks first, by their port, and
 * refused in their own words, so that whoever typed the command reads why. Nothing of theirs is ever sent on.
 */
import type { Socket } from 'node:net'

/** How long a client of a port whose servers speak first may be silent before it is taken for one of theirs. */
export const SPEAK_FIRST_MS = 500

export interface OtherProtocol {
  /** As recorded. */
  readonly reason: string
  /** Answers and ends. */
  refuse(socket: Socket): void
}

const SAYS = {
  ssh: 'SSH does not pass out of this session. For git use the https:// address of the repository',
  postgres:
    'PostgreSQL passes only inside TLS from its first byte (sslnegotiation=direct) to a host that a rule names with inspect: false',
  redis:
    'Redis passes only inside TLS (rediss://, --tls --sni HOST) to a host that a rule names with inspect: false',
  mysql:
    'MySQL does not pass out of this session: its servers speak first, before TLS, so nobody could check whom it reaches',
  mail: 'mail does not pass out of this session',
  ftp: 'FTP does not pass out of this session: use https',
} as const

type Name = keyof typeof SAYS
const text = (name: Name): string => `Refused by Ambit: ${SAYS[name]}. (\`ambit why\` says more)`

const other = (name: Name, answer: (socket: Socket) => void): OtherProtocol => ({
  reason: `net.protocol-${name}`,
  refuse: answer,
})
const saying = (name: Name, bytes: string | Buffer): OtherProtocol =>
  other(name, (socket) => socket.end(bytes))

/** By the first bytes; null when they are none of these. */
export function recognise(bytes: Buffer): OtherProtocol | null {
  const head = bytes.toString('latin1', 0, 16)
  if (/^SSH-[12]\./.test(head)) return saying('ssh', sshDisconnect(text('ssh')))
  if (/^\*\d{1,6}\r\n\$/.test(head)) return saying('redis', `-ERR ${text('redis')}\r\n`)
  const startup = postgresCode(bytes)
  if (startup === STARTUP) return saying('postgres', postgresError(text('postgres')))
  if (startup !== null) return other('postgres', refuseAfterStartup)
  return null
}

/** By the port, for protocols whose clients wait for the server's word; null for all other ports. */
export function serverFirst(port: number): OtherProtocol | null {
  const refused = text('mail')
  switch (port) {
    case 21:
      return saying('ftp', `421 ${text('ftp')}\r\n`)
    case 25:
    case 587:
      return saying('mail', `554 ${refused}\r\n`)
    case 110:
      return saying('mail', `-ERR ${refused}\r\n`)
    case 143:
      return saying('mail', `* BYE ${refused}\r\n`)
    case 3306:
      return saying('mysql', mysqlError(text('mysql')))
    default:
      return null
  }
}

/** RFC 4253 §4.2 and §11.1: a version, then SSH_MSG_DISCONNECT, which may come before any key exchange. */
function sshDisconnect(description: string): Buffer {
  const HOST_NOT_ALLOWED = 1
  const payload = Buffer.concat([
    Buffer.from([1]),
    uint32(HOST_NOT_ALLOWED),
    counted(description),
    counted(''),
  ])
  const padding = 8 - ((5 + payload.length) % 8)
  const length = padding < 4 ? padding + 8 : padding
  const packet = [uint32(1 + payload.length + length), Buffer.from([length]), payload, Buffer.alloc(length)]
  return Buffer.concat([Buffer.from('SSH-2.0-Ambit\r\n'), ...packet])
}

const STARTUP = 0x0003_0000
const SSL_REQUEST = 80_877_103
const GSS_REQUEST = 80_877_104

/** The code of a PostgreSQL start-up packet (protocol 3.0 §55.7), or null. */
function postgresCode(bytes: Buffer): number | null {
  if (bytes.length < 8 || bytes.readUInt32BE(0) > 10_000) return null
  const code = bytes.readUInt32BE(4)
  return code === STARTUP || code === SSL_REQUEST || code === GSS_REQUEST ? code : null
}

/** Clients show an error only in answer to a start-up packet, so offers of encryption are declined first. */
function refuseAfterStartup(socket: Socket): void {
  let answers = 0
  socket.on('data', (chunk: Buffer) => {
    const code = postgresCode(chunk)
    if (code === STARTUP || code === null || ++answers > 2) socket.end(postgresError(text('postgres')))
    else socket.write('N')
  })
  socket.resume()
}

function postgresError(message: string): Buffer {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C28000\0M${message}\0\0`)
  return Buffer.concat([Buffer.from('E'), uint32(4 + fields.length), fields])
}

/** An ERR packet in place of the greeting: error 1130, host not allowed. */
function mysqlError(message: string): Buffer {
  const body = Buffer.concat([Buffer.from([0xff, 0x6a, 0x04]), Buffer.from(message)])
  return Buffer.concat([Buffer.from([body.length & 0xff, body.length >> 8, 0, 0]), body])
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

const counted = (value: string): Buffer => Buffer.concat([uint32(value.length), Buffer.from(value)])
