/** What a session did, folded from its journals' facts: for the person at the end, `--summary` and `ambit sessions`. */
import { hash } from 'node:crypto'
import type { Control, Fact } from '../audit/fact.ts'
import { unavailableCommand } from '../runtime/unavailable.ts'

export interface Refusal {
  /** `file`, `network`, `dns`, `http`, `process`, `command`, `decision`. */
  readonly kind: string
  /** Raw, attacker-controlled; escape before showing. */
  readonly target: string
  readonly reason: string
  readonly rule: string | null
  readonly count: number
}

interface HostTraffic {
  readonly host: string
  readonly requests: number
  readonly bytesOut: number
  readonly bytesIn: number
}

export interface SessionActivity {
  /** Distinct files, as far as a million of them. */
  readonly filesRead: number
  /** Paths created, written, renamed or deleted, first come first, at most 1,000. */
  readonly filesChanged: readonly string[]
  readonly filesChangedTotal: number
  /** Command lines, redacted at the sensor; at most 1,000. */
  readonly commands: readonly {
    readonly path: string
    readonly argv: readonly string[]
    readonly digest: string | null
  }[]
  readonly commandsTotal: number
  readonly hosts: readonly HostTraffic[]
  readonly bytesOut: number
  readonly refusals: readonly Refusal[]
  readonly refusalsTotal: number
  readonly controls: readonly Control[]
}

const KEEP = 1000
/** Distinct paths that are counted; an agent can make millions of names in a session. */
const COUNTED = 1 << 20
/** Longer paths are told apart by their digests. */
const LONG = 64

/** Folds facts, oldest first, into the activity of one session. */
export class ActivityFold {
  readonly #read = new Distinct()
  readonly #changed = new Distinct()
  readonly #commands: SessionActivity['commands'][number][] = []
  readonly #hosts = new Map<string, { requests: number; bytesOut: number; bytesIn: number }>()
  readonly #refusals = new Map<string, Refusal>()
  #commandsTotal = 0
  #refusalsTotal = 0
  #controls: readonly Control[] = []

  add(fact: Fact): void {
    switch (fact.k) {
      case 'file.open':
        if (fact.mode === 'read') this.#read.add(fact.path)
        return
      case 'file.write':
      case 'file.create':
      case 'file.delete':
        this.#changed.add(fact.path)
        return
      case 'file.rename':
        this.#changed.add(fact.path)
        this.#changed.add(fact.to)
        return
      // Recorded before it was tried.
      case 'file.failed':
        if (fact.op !== 'attributes') this.#changed.drop(fact.path)
        if (fact.to !== undefined) this.#changed.drop(fact.to)
        return
      case 'process.launch':
        this.#commandsTotal++
        if (this.#commands.length < KEEP)
          this.#commands.push({ path: fact.path, argv: fact.argv, digest: fact.digest })
        this.#refusal(fact)
        return
      case 'http.request':
        this.#host(fact.host).requests++
        return
      case 'net.close': {
        const host = this.#host(fact.host)
        host.bytesOut += fact.bytesOut
        host.bytesIn += fact.bytesIn
        return
      }
      case 'session.enforced':
        this.#controls = fact.controls
        return
      default:
        this.#refusal(fact)
    }
  }

  #host(name: string): { requests: number; bytesOut: number; bytesIn: number } {
    const host = this.#hosts.get(name) ?? { requests: 0, bytesOut: 0, bytesIn: 0 }
    this.#hosts.set(name, host)
    return host
  }

  #refusal(fact: Fact): void {
    const refusal = refusalOf(fact)
    if (!refusal) return
    this.#refusalsTotal++
    const key = `${refusal.kind}\0${refusal.target}\0${refusal.reason}`
    const known = this.#refusals.get(key)
    if (known) this.#refusals.set(key, { ...known, count: known.count + 1 })
    else if (this.#refusals.size < KEEP) this.#refusals.set(key, refusal)
  }

  result(): SessionActivity {
    const hosts = [...this.#hosts].map(([host, traffic]) => ({ host, ...traffic }))
    return {
      filesRead: this.#read.size,
      filesChanged: this.#changed.first,
      filesChangedTotal: this.#changed.size,
      commands: this.#commands,
      commandsTotal: this.#commandsTotal,
      hosts,
      bytesOut: hosts.reduce((sum, host) => sum + host.bytesOut, 0),
      refusals: [...this.#refusals.values()],
      refusalsTotal: this.#refusalsTotal,
      controls: this.#controls,
    }
  }
}

/** Counts distinct paths. A path may be thousands of characters, and there may be a journal full of them. */
class Distinct {
  readonly first: string[] = []
  /** How often each came. */
  readonly #keys = new Map<string, number>()

  add(path: string): void {
    const key = keyOf(path)
    const known = this.#keys.get(key)
    if (known === undefined && this.#keys.size >= COUNTED) return
    this.#keys.set(key, (known ?? 0) + 1)
    if (known === undefined && this.first.length < KEEP) this.first.push(path)
  }

  /** Takes one `add` back. */
  drop(path: string): void {
    const key = keyOf(path)
    const known = this.#keys.get(key) ?? 0
    if (known > 1) this.#keys.set(key, known - 1)
    if (known !== 1) return
    this.#keys.delete(key)
    const at = this.first.indexOf(path)
    if (at >= 0) this.first.splice(at, 1)
  }

  get size(): number {
    return this.#keys.size
  }
}

const keyOf = (path: string): string => (path.length > LONG ? hash('sha256', path, 'base64') : path)

/** The refusal that a fact records, or null. */
export function refusalOf(fact: Fact): Refusal | null {
  const refusal = (kind: string, target: string, reason: string, rule: string | null): Refusal => ({
    kind,
    target,
    reason,
    rule,
    count: 1,
  })
  switch (fact.k) {
    case 'file.denied':
      return refusal('file', fact.path, `${fact.op}: ${fact.reason}`, fact.rule)
    case 'net.denied':
      return refusal('network', `${fact.host || fact.address}:${fact.port}`, fact.reason, fact.rule)
    case 'http.denied':
      return refusal('http', `${fact.method} ${fact.host}${fact.path}`, fact.reason, fact.rule)
    case 'dns.query':
      return fact.reason === null ? null : refusal('dns', fact.name, fact.reason, fact.rule)
    case 'credential.foreign':
      return refusal('credential', `${fact.header} to ${fact.host}`, 'credential.foreign', null)
    case 'process.denied':
      return refusal('process', fact.path, fact.reason, null)
    case 'process.launch': {
      const command = unavailableCommand(fact.path)
      return command && refusal('command', command.name, 'command.unavailable', null)
    }
    case 'decision':
      return fact.effect === 'allow' ? null : refusal(fact.action, fact.target, fact.reason, fact.rule)
    default:
      return null
  }
}
