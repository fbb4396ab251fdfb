import type { Server as HttpServer } from 'node:http'
import type { Http2SecureServer } from 'node:http2'
import type { UploadBudget } from './budget.ts'
import type { CredentialBook } from './credential.ts'
import type { Watch } from './deadline.ts'
import type { Monitor } from './monitor.ts'
import type { NameBook } from './names.ts'
import type { Openers } from './opener.ts'
import type { Http2Pool, LinkPool } from './pool.ts'
import type { SessionCa } from './session-ca.ts'
import type { Dialler } from './upstream.ts'
import type { Wire } from './wire.ts'

/** The parts of one session's gate, made once in gate.ts. */
export interface GateContext {
  readonly monitor: Monitor
  readonly names: NameBook
  readonly budget: UploadBudget
  readonly credentials: CredentialBook
  readonly ca: SessionCa
  readonly dialler: Dialler
  readonly links: LinkPool
  readonly http2: Http2Pool
  readonly openers: Openers
  readonly watch: Watch
  /** Native connections; null where there are none. */
  readonly wire: Wire | null
  /** HTTP/1.1 inside flows, over TLS or plain. */
  readonly http1Server: HttpServer
  readonly http2Server: Http2SecureServer
}
