/** TLS ClientHellos that no library sends. RFC 8446 section 4.1.2, RFC 6066 section 3. */

/** A server_name extension with these names; `type` 0 is host_name. */
export function serverName(names: readonly string[], type = 0): Buffer {
  const entries = names.map((name) =>
    Buffer.concat([Buffer.from([type]), prefixed(Buffer.from(name, 'latin1'), 2)]),
  )
  return extension(0, prefixed(Buffer.concat(entries), 2))
}

export const extension = (id: number, body: Buffer): Buffer =>
  Buffer.concat([number(id, 2), prefixed(body, 2)])

/** One record with a hello that carries these extensions, as latin1 for a step's `send`. */
export function clientHello(extensions: readonly Buffer[]): Buffer {
  const body = Buffer.concat([
    number(0x0303, 2),
    Buffer.alloc(32, 7),
    prefixed(Buffer.alloc(0), 1),
    prefixed(Buffer.from([0x13, 0x01, 0xc0, 0x2b]), 2),
    prefixed(Buffer.from([0]), 1),
    prefixed(Buffer.concat([...extensions, supportedVersions()]), 2),
  ])
  const handshake = Buffer.concat([Buffer.from([1]), prefixed(body, 3)])
  return Buffer.concat([Buffer.from([0x16, 3, 1]), prefixed(handshake, 2)])
}

const supportedVersions = (): Buffer => extension(43, Buffer.from([4, 3, 4, 3, 3]))

function number(value: number, width: number): Buffer {
  const buffer = Buffer.alloc(width)
  buffer.writeUIntBE(value, 0, width)
  return buffer
}

const prefixed = (body: Buffer, width: number): Buffer => Buffer.concat([number(body.length, width), body])

/** encrypted_client_hello as browsers grease it: outer, a suite, a key and a payload of nobody's. */
export const ECH_GREASE = extension(
  0xfe0d,
  Buffer.concat([
    Buffer.from([0, 0, 1, 0, 1, 7, 0, 32]),
    Buffer.alloc(32, 9),
    Buffer.from([0, 16]),
    Buffer.alloc(16, 3),
  ]),
)
