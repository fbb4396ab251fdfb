/** What native code passes on as an answer, against what llhttp and our own rewriting make of the same bytes. */
import { EventEmitter } from 'node:events'
import { HTTPParser } from 'node:_http_common'
import { inboundHead } from '../src/gate/outbound.ts'
import { Reply } from '../src/gate/reply.ts'
import type { Pipe } from '../src/gate/wire.ts'

/** Takes what is written to it. */
class Written extends EventEmitter {
  readonly bytes: Buffer[] = []
  write(chunk: Buffer | string): boolean {
    this.bytes.push(Buffer.from(chunk as string, 'latin1'))
    return true
  }
  cork(): void {}
  uncork(): void {}
  destroy(): void {
    this.bytes.length = 0
  }
}

/** The bytes for the client of a GET if `input` is one whole answer on a connection that goes on; else null. */
export function throughJavaScript(input: Buffer): Buffer | null {
  const written = new Written()
  const reply = new Reply(written as unknown as Pipe, 'GET', undefined, () => undefined)
  let whole = 0
  let usual = false
  const parser = new HTTPParser()
  parser.initialize(HTTPParser.RESPONSE, {}, 65_536, HTTPParser.kLenientNone)
  parser[HTTPParser.kOnHeadersComplete] = (
    _major,
    _minor,
    headers,
    _method,
    _url,
    status,
    _text,
    upgrade,
    keep,
  ) => {
    usual = whole === 0 && !upgrade && keep && status >= 200
    if (usual) reply.writeHead(status, inboundHead(headers ?? [], null).headers)
    return 0
  }
  parser[HTTPParser.kOnBody] = (chunk) => void reply.write(chunk)
  parser[HTTPParser.kOnMessageComplete] = () => {
    whole++
    reply.end()
  }
  try {
    const end = parser.execute(input)
    if (!usual || whole !== 1 || end !== input.length) return null
    return Buffer.concat(written.bytes)
  } catch {
    return null
  } finally {
    parser.close()
  }
}
