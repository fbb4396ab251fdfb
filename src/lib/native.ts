import { createRequire } from 'node:module'
import { join } from 'node:path'
import { installRoot } from './paths.ts'

/** The napi addon (native/node): what Node lacks. All fds are plain numbers owned by the caller. */
export interface Native {
  /** AF_UNIX SOCK_SEQPACKET pair, both CLOEXEC. */
  socketpair(): [number, number]
  /** Waits (thread pool) for one message with up to 16 fds; rejects on EOF or after `timeoutMs`. */
  receiveFds(socket: number, timeoutMs: number): Promise<{ data: string; fds: number[] }>
  sendFds(socket: number, data: string, fds: number[]): void
  /** SO_ORIGINAL_DST (or getsockname when there was no redirect) of an accepted TCP socket. */
  originalDestination(fd: number): { address: string; port: number }
  /** Size of a regular file in bytes, at a tenth of what `fs.fstat` costs; -1 when its last name is gone. */
  fileSize(fd: number): number
  /** SO_PEERCRED. */
  peerCredentials(fd: number): { pid: number; uid: number; gid: number }
  peerLives(fd: number): boolean
  /** flock(2), non-blocking. False when another process holds it. Freed by death. */
  tryLock(fd: number): boolean
  /** For good, children included: no new privileges and no core file. */
  noNewPrivileges(): void
  /** A command line as it may be recorded: without values that are secrets by their name or shape. */
  redactWords(words: readonly string[]): string[]
  /** From now on an end inside V8 or an allocator is one line and 125, and Node's own words wait for the exit. */
  keepLastWords(): void
  /** Issues a CA and leaves with rcgen. Keys are P-256, PEM. `notBefore`/`notAfter` epoch seconds. */
  createCa(name: string, notBefore: number, notAfter: number): { cert: string; key: string }
  createLeaf(
    ca: { cert: string; key: string },
    host: string,
    notBefore: number,
    notAfter: number,
  ): { cert: string; key: string }
  /** RFC 6962 leaf hashes, 32 bytes each, of framed entries (u16be length, bytes) that lie one after the other. */
  leafHashes(framed: Uint8Array): Uint8Array
  /** The RFC 6962 root over 2^n hashes, 32 bytes each. */
  subtreeRoot(hashes: Uint8Array): Uint8Array
  /** Kinds of fact that `FactEncoder` takes. */
  frequentKinds(): string[]
  FactEncoder: new (frame: EventFrame) => FactEncoder
  /** For the journal open as `fd`. */
  RecordQueue: new (
    fd: number,
  ) => RecordQueue
  /** In-process Rego (regorus). */
  RegoEngine: new () => RegoEngine
  /** TLS connections on the main thread. Throws where this Node does not export what it needs of libuv. */
  Wire: new (
    turn: (count: number) => void,
    events: Int32Array,
  ) => NativeWire
}

/** Numbers and answers: src/gate/wire.ts. */
export interface NativeWire {
  certificate(certificate: string, key: string): number
  forgetCertificate(certificate: number): void
  target(leaf: Uint8Array): number
  forgetTarget(target: number): void
  accept(fd: number, certificate: number, first: Uint8Array): number
  connect(address: string, port: number, host: string, target: number): number
  read(id: number, into: Uint8Array): number
  write(id: number, bytes: Uint8Array, more: boolean): number
  writeText(id: number, text: string, more: boolean): number
  flush(id: number): number
  pass(from: number, to: number, size: number): number
  answers(dropped: readonly string[], titles: readonly string[]): void
  answer(from: number, to: number, told: Int32Array): number
  rewritten(bytes: Uint8Array): Buffer | null
  pause(id: number, paused: boolean): void
  end(id: number): number
  close(id: number): void
  stop(): void
}

/** Records of a journal that are not yet in the kernel (native/node/src/record_queue.rs). */
export interface RecordQueue {
  /** Stamps and frames the JSON of a fact. Bytes of its record. @throws Error when it is too large */
  add(fact: string): number
  /** Writes all of it at this byte of the file. 0, or the number of the error; the queue is empty either way. */
  write(at: number): number
}

/** The parts of an event that are the same for all facts of a journal, as JSON (src/audit/ocsf.ts). */
export interface EventFrame {
  readonly party: string
  readonly origin: string
  readonly session: string
  readonly journal: string
  readonly profile: string
}

/** From a journal's records to entries of the log (native/node/src/events.rs). */
export interface FactEncoder {
  /**
   * Frames the events of the records that begin `records`, which lie at `offset` of their journal, into `room` from
   * byte `used` on: at most `most`, none later than `until`, the first as entry `index`. Stops at whatever is not a
   * frequent fact in its usual form; `room` must not overlap `records`.
   */
  encode(
    records: Uint8Array,
    offset: number,
    room: Uint8Array,
    used: number,
    index: number,
    most: number,
    until: number,
  ): FactRun
}

/** What one call took. */
export interface FactRun {
  readonly count: number
  /** Bytes of records. */
  readonly read: number
  /** Bytes of framed entries. */
  readonly written: number
  /** The next entry needs more room. */
  readonly full: boolean
  /** Facts of each kind, in the order of `frequentKinds`. */
  readonly kinds: readonly number[]
  /** Clocks of the last one. */
  readonly t: number
  readonly m: number
  /** Monotonic clock of the first that was not taken, where it is a frequent one. */
  readonly next?: number
}

export interface RegoEngine {
  /** Throws with file, line and column when the module does not parse. */
  addPolicy(path: string, text: string): void
  addDataJson(json: string): void
  /** Gives `key` of every later input this value, without parsing it again each time. */
  keepInput(key: string, json: string): void
  /** Value of a rule path such as `data.ambit.admission.decision`, as JSON; null when undefined. Throws when evaluation fails. */
  evalRule(rule: string, inputJson: string): string | null
  /** Names of the loaded packages and rules, for `policy check`. */
  rules(): string[]
}

let loaded: Native | undefined

/** Loads the addon once. */
export function native(): Native {
  loaded ??= createRequire(import.meta.url)(join(installRoot(), '.build', 'native.node')) as Native
  return loaded
}
