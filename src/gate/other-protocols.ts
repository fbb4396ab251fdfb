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
  /** Answers and ends. `why`: other words than that the protocol does not pass. */
  refuse(socket: Socket, why?: string): void
}

const SAYS = {
  ssh: 'SSH does not pass out of this session. For git use the https:// address of the repository',
  postgres:
    'PostgreSQL passes to a host that a rule pins (ports: ["5432/tcp"] with connect), or inside TLS from its first byte (sslnegotiation=direct) to one with inspect: false',
  redis:
    'Redis passes to a host that a rule pins (ports: ["6379/tcp"] with connect), or inside TLS (rediss://, --tls --sni HOST) to one with inspect: false',
  mysql: 'MySQL passes only to a host that a rule pins (ports: ["3306/tcp"] with connect)',
  mail: 'mail does not pass out of this session',
  ftp: 'FTP does not pass out of this session: use https',
} as const

type Name = keyof typeof SAYS
const text = (name: Name): string => `Refused by Ambit: ${SAYS[name]}. (\`ambit why\` says more)`

const other = (name: Name, answer: (socket: Socket, words: string) => void): OtherProtocol => ({
  reason: `net.protocol-${name}`,
  refuse: (socket, why) => answer(socket, why ?? text(name)),
})
const saying = (name: Name, bytes: (words: string) => string | Buffer): OtherProtocol =>
  other(name, (socket, words) => socket.end(bytes(words)))

const SSH = saying('ssh', sshDisconnect)
const REDIS = saying('redis', (words) => `-ERR ${words}\r\n`)
const POSTGRES = saying('postgres', postgresError)
const POSTGRES_ENCRYPTED = other('postgres', refuseAfterStartup)
const MYSQL = saying('mysql', mysqlError)
const FTP = saying('ftp', (words) => `421 ${words}\r\n`)
const SMTP = saying('mail', (words) => `554 ${words}\r\n`)
const POP = saying('mail', (words) => `-ERR ${words}\r\n`)
const IMAP = saying('mail', (words) => `* BYE ${words}\r\n`)

/** By the first bytes; null when they are none of these. */
export function recognise(bytes: Buffer): OtherProtocol | null {
  const head = bytes.toString('latin1', 0, 16)
  if (/^SSH-[12]\./.test(head)) return SSH
  if (/^\*\d{1,6}\r\n\$/.test(head)) return REDIS
  const startup = postgresCode(bytes)
  if (startup === STARTUP) return POSTGRES
  return startup === null ? null : POSTGRES_ENCRYPTED
}

/** By the port, for protocols whose clients wait for the server's word; null for all other ports. */
export function serverFirst(port: number): OtherProtocol | null {
  switch (port) {
    case 21:
      return FTP
    case 25:
    case 587:
      return SMTP
    case 110:
      return POP
    case 143:
      return IMAP
    case 3306:
      return MYSQL
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
function refuseAfterStartup(socket: Socket, words: string): void {
  let answers = 0
  socket.on('data', (chunk: Buffer) => {
    const code = postgresCode(chunk)
    if (code === STARTUP || code === null || ++answers > 2) socket.end(postgresError(words))
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
