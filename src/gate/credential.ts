/** Credentials: what clients may send, what is put in its place, what must not come back. */
import { createHash } from 'node:crypto'
import type { CredentialPlan, NetworkRule, Plan } from '../profile/plan.ts'

/** Headers that carry credentials with one vendor or another, as `canonicalName` spells them. */
const CREDENTIAL_HEADERS = [
  'authorization',
  'api-key',
  'apikey',
  'x-api-key',
  'x-api-token',
  'x-apikey',
  'x-access-token',
  'x-amz-security-token',
  'x-auth-key',
  'x-auth-token',
  'x-authorization',
  'x-goog-api-key',
  'x-goog-iam-authorization-token',
  'x-functions-key',
  'ocp-apim-subscription-key',
  'private-token',
  'job-token',
  'deploy-token',
  'x-github-token',
  'x-gitlab-token',
  'x-vault-token',
]
const CREDENTIAL_PARAMETERS = new Set([
  'key',
  'api-key',
  'apikey',
  'access-token',
  'auth-token',
  'x-api-key',
  'x-goog-api-key',
  'access-key',
  'api-token',
  'auth',
  'client-secret',
  'oauth-token',
  'private-token',
  'job-token',
  'signature',
  'subscription-key',
  'token',
  'x-amz-credential',
  'x-amz-signature',
  'x-goog-credential',
  'x-goog-signature',
  'x-amz-security-token',
  'sig',
])
/** A shorter secret would be found in innocent text. */
const MIN_SCRUBBED = 6

/** `-`, `_` and `.` are one to CGI-like servers (N-29). `lower` is in lower case already. */
export function canonicalName(lower: string): string {
  return /[_.]/.test(lower) ? lower.replace(/[_.]/g, '-') : lower
}

/** A credential ready for injection. */
export interface Injection {
  readonly name: string
  readonly header: string
  readonly value: string
  /** The secret and its common encodings, for scrubbing. */
  readonly needles: readonly string[]
}

/** The session's credentials and what stands for them inside. */
export class CredentialBook {
  readonly #headers: ReadonlySet<string>
  readonly #placeholders: readonly string[]
  readonly #placeholderOf: ReadonlyMap<string, string>
  readonly #injections = new Map<string, Injection>()

  constructor(plan: Plan, secrets: ReadonlyMap<string, string>, placeholders: ReadonlyMap<string, string>) {
    this.#headers = new Set([...CREDENTIAL_HEADERS, ...plan.credentials.map((c) => canonicalName(c.header))])
    this.#placeholders = [...placeholders.values()].filter((value) => value.length > 0)
    this.#placeholderOf = placeholders
    for (const credential of plan.credentials) {
      const secret = secrets.get(credential.name)
      if (secret !== undefined) this.#injections.set(credential.name, injectionOf(credential, secret))
    }
  }

  /** What to inject for a rule; undefined when the credential has no value on this machine. */
  injection(name: string): Injection | undefined {
    return this.#injections.get(name)
  }

  isCredentialHeader(canonical: string): boolean {
    return this.#headers.has(canonical)
  }

  /** Whether a client's credential header holds nothing but the placeholder it was given. */
  isOwnPlaceholder(value: string, credential: string): boolean {
    const placeholder = this.#placeholderOf.get(credential)
    if (placeholder === undefined || placeholder === '') return value === ''
    const bare = value.trim().replace(/^(?:bearer|token|basic|key|apikey) +/i, '')
    if (value.trim() === placeholder || bare === placeholder) return true
    return /^basic /i.test(value) && basicPair(bare).includes(placeholder)
  }

  /** Whether text that would go out contains any placeholder: it belongs nowhere but in its own header (K-02). */
  holdsPlaceholder(text: string): boolean {
    for (const placeholder of this.#placeholders) if (text.includes(placeholder)) return true
    return false
  }

  /** The same for a credential header, whose value may be encoded. */
  holdsPlaceholderEncoded(value: string): boolean {
    if (this.holdsPlaceholder(value)) return true
    return (
      /^basic /i.test(value) && basicPair(value.slice(6).trim()).some((part) => this.holdsPlaceholder(part))
    )
  }

  /**
   * The target without credential parameters that hold the placeholder; a foreign one is refused. Only for rules
   * that inject: elsewhere a `key` is the client's own business.
   */
  vetTarget(target: string, rule: NetworkRule): { target: string } | { foreign: string; value: string } {
    const at = target.indexOf('?')
    if (at === -1 || rule.credential === null) return { target }
    const kept: string[] = []
    for (const [pair, separator] of pairsOf(target.slice(at + 1))) {
      const [name, value] = splitPair(pair)
      if (!CREDENTIAL_PARAMETERS.has(canonicalName(decode(name).toLowerCase()))) kept.push(separator, pair)
      else if (value !== '' && !this.isOwnPlaceholder(decode(value), rule.credential))
        return { foreign: decode(name), value: decode(value) }
    }
    const query = kept.slice(1).join('')
    return { target: query === '' ? target.slice(0, at) : `${target.slice(0, at)}?${query}` }
  }
}

/** The target as it is recorded: without the values of credential parameters, whoever's they are. */
export function redactTarget(target: string): string {
  const at = target.indexOf('?')
  if (at === -1) return target
  const pairs = pairsOf(target.slice(at + 1)).map(([pair, separator]) => {
    const [name, value] = splitPair(pair)
    const secret = value !== '' && CREDENTIAL_PARAMETERS.has(canonicalName(decode(name).toLowerCase()))
    return separator + (secret ? `${name}=[redacted]` : pair)
  })
  return `${target.slice(0, at)}?${pairs.join('')}`
}

const MOST_REFUSED_TARGET = 2048

/** The same of a refused request, which no budget counts: its record must not be as long as the client likes. */
export function refusedTarget(target: string): string {
  const whole = redactTarget(target)
  const more = whole.length - MOST_REFUSED_TARGET
  return more <= 0 ? whole : `${whole.slice(0, MOST_REFUSED_TARGET)}…(${more} more)`
}

/** What identifies a foreign credential in the record without holding it. */
export const fingerprint = (value: string): string =>
  createHash('sha256').update(value).digest('hex').slice(0, 12)

/** Whether a response header carries an injected secret back. */
export function echoes(value: string, injection: Injection): boolean {
  for (const needle of injection.needles) if (value.includes(needle)) return true
  return false
}

function injectionOf(credential: CredentialPlan, secret: string): Injection {
  const bytes = Buffer.from(secret)
  const encoded = [
    secret,
    encodeURIComponent(secret),
    bytes.toString('base64').replace(/=+$/, ''),
    bytes.toString('base64url'),
    bytes.toString('hex'),
  ]
  const needles = secret.length < MIN_SCRUBBED ? [] : [...new Set(encoded)]
  return {
    name: credential.name,
    header: credential.header,
    value: `${credential.prefix}${secret}`,
    needles,
  }
}

function basicPair(base64: string): string[] {
  const text = Buffer.from(base64, 'base64').toString('latin1')
  const colon = text.indexOf(':')
  return colon === -1 ? [text] : [text.slice(0, colon), text.slice(colon + 1)]
}

/** The pairs of a query, each behind its separator. `;` is one to older CGI-like servers (N-29). */
function pairsOf(query: string): [pair: string, separator: string][] {
  const parts = query.split(/([&;])/)
  return parts.flatMap((part, at) => (at % 2 === 0 ? [[part, parts[at - 1] ?? ''] as [string, string]] : []))
}

function splitPair(pair: string): [string, string] {
  const at = pair.indexOf('=')
  return at === -1 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)]
}

/** `+` is a space to most servers, and a bad escape stands for itself. */
function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return text
  }
}
