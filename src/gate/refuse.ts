/** What a refused client is told: RFC 9457 problem details that name the rule and say how a person can allow it. */
import { printable } from '../lib/printable.ts'

export interface Refusal {
  readonly status: number
  /** Stable code, as recorded. */
  readonly reason: string
  /** Place in the profile, when a rule decided. */
  readonly rule: string | null
}

/** Statuses other than 403. */
const STATUS: Readonly<Record<string, number>> = {
  'session.stopped': 503,
  'gate.unrecordable': 503,
  'gate.too-many-exchanges': 503,
  'gate.too-much-waits': 503,
  'http.malformed': 400,
  'http.absolute-form': 400,
  'http.head-too-large': 431,
  'http.method-unknown': 405,
  'http.expectation-unknown': 417,
  'http.misdirected': 421,
  'tls.name-mismatch': 421,
  'tls.name-missing': 421,
  'upload.per-request': 413,
  'upload.per-minute': 429,
  'upload.per-session': 413,
  'upstream.unresolvable': 502,
  'upstream.unreachable': 502,
  'upstream.proxy-unreachable': 502,
  'upstream.proxy-certificate': 502,
  'upstream.proxy-credentials': 502,
  'upstream.proxy-refused': 502,
  'upstream.certificate': 502,
  'upstream.failed': 502,
  'upstream.swollen': 502,
  'upstream.timeout': 504,
}

export const refusal = (reason: string, rule: string | null = null): Refusal => ({
  status: STATUS[reason] ?? 403,
  reason,
  rule,
})

/** One sentence a reason: what was refused, and what a person can do. `%` stands for the host. */
const DETAIL: Readonly<Record<string, string>> = {
  'network.no-matching-rule':
    'No network rule of this profile names %. A person can allow it by adding a rule for it to the profile.',
  'network.port-not-allowed':
    'The rule for % does not cover this port. A person can add the port to the rule.',
  'network.plain-not-allowed': 'Plain HTTP to % is not allowed; use https.',
  'network.raw-only':
    'The rule for % is for bare TCP on this port; requests by the proxy are not. Connect to it directly.',
  'network.clearance-exceeded':
    'This session has read data with a higher label than % is cleared for. A person can raise the clearance of the rule.',
  'network.method-not-allowed': 'The rule for % does not allow this method. A person can add it to the rule.',
  'network.path-not-allowed': 'The rule for % does not allow this path. A person can add it to the rule.',
  'network.path-spelling':
    'The rule for % limits paths, and this one is spelled in a way that servers read differently. Use the plain spelling.',
  'credential.foreign':
    'The request to % carries a credential that this session was not given. Use the one from the environment.',
  'credential.misplaced': 'The request carries a placeholder of a credential that does not belong to %.',
  'credential.plain': 'The rule for % injects a credential, which never travels over plain HTTP; use https.',
  'credential.unavailable': 'The credential for % has no value on this machine. A person can set its source.',
  'dns.wildcard-limit':
    'Too many or too strange names under the wildcard that covers %. A person can name the host in a rule of its own.',
  'session.stopped': 'The session is stopped, so nothing goes out. Try again when it has been resumed.',
  'gate.unrecordable': 'The request could not be recorded, so it was not sent.',
  'gate.too-many-exchanges': 'Too many requests of this session are under way. Try again when some are done.',
  'gate.too-much-waits':
    'Requests under way hold too many bytes that nobody reads. Read the answers, or send fewer at once.',
  'http.misdirected': 'The request names another host than the connection to %.',
  'http.dns-over-https': 'DNS over HTTPS is refused; names resolve through the system resolver.',
  'http.bodyless-method-body': 'A body on a method that has none is refused; use POST.',
  'http.method-unknown': 'This method is never allowed unless a rule names it.',
  'http.expectation-unknown': 'The request expects what no server here knows; leave `Expect` out.',
  'tls.name-mismatch': 'The TLS server name differs from the name that was resolved (%).',
  'tls.name-missing': 'The TLS hello carries no server name, but the connection is for %.',
  'upload.per-request':
    'The request is larger than the profile allows. A person can raise upload.perRequest.',
  'upload.per-minute': 'The upload allowance of this minute is used up. Try again in a minute.',
  'upload.per-session':
    'The upload allowance of this session is used up. A person can raise upload.perSession and start a new session.',
  'upstream.address-forbidden':
    'The name % leads to a private, loopback or metadata address. A person can pin it with `connect` in the rule.',
  'upstream.certificate': 'The certificate that % presents is not valid for it.',
  'upstream.unresolvable': 'The name % does not resolve.',
  'upstream.unreachable': '% could not be reached.',
  'upstream.proxy-unreachable':
    'The proxy that leads out of this network could not be reached, so % was not either. A person can check AMBIT_UPSTREAM_PROXY.',
  'upstream.proxy-certificate':
    'The proxy that leads out of this network shows a certificate that nothing here vouches for, so % was not reached. A person can name its roots in AMBIT_UPSTREAM_ROOTS.',
  'upstream.proxy-credentials':
    'The proxy that leads out of this network wants other credentials to reach %. A person can set them in AMBIT_UPSTREAM_PROXY.',
  'upstream.proxy-refused': 'The proxy that leads out of this network refuses %.',
  'upstream.timeout': '% did not answer in time.',
  'upstream.failed': '% broke off or answered with invalid HTTP.',
  'upstream.swollen': 'What % answered opens to hundreds of times its size.',
}

export interface ProblemContext {
  readonly profile: string
  readonly host: string
}

/** Title of the answer and HTTP/1.1's reason phrase: most tools show no more than that. */
export const titleOf = (refusal: Refusal): string =>
  refusal.status >= 500 ? 'Not sent by Ambit' : 'Refused by Ambit'

function detailOf(refusal: Refusal, context: ProblemContext): string {
  const detail = (DETAIL[refusal.reason] ?? 'Ambit refused the request to %.').replace(
    '%',
    printable(context.host, 253),
  )
  return `${detail} (profile ${context.profile}${refusal.rule ? `, ${refusal.rule}` : ''}; \`ambit why\` says more)`
}

/** The body of an `application/problem+json` answer. */
export function problemBody(refusal: Refusal, context: ProblemContext): Buffer {
  const detail = detailOf(refusal, context)
  // The line's end is for people: a prompt would stand right behind it.
  return Buffer.from(
    `${JSON.stringify({
      type: `urn:ambit:refused:${refusal.reason}`,
      title: titleOf(refusal),
      status: refusal.status,
      detail,
      reason: refusal.reason,
      host: printable(context.host, 253),
      rule: refusal.rule,
      // The member that npm and yarn show of an answer.
      error: detail,
    })}\n`,
  )
}

/** The same for git, which shows the text of plain answers and of no others. */
export const problemText = (refusal: Refusal, context: ProblemContext): Buffer =>
  Buffer.from(`${titleOf(refusal)}: ${detailOf(refusal, context)}\n`)

export const PROBLEM_TYPE = 'application/problem+json'

/** Header list of a refusal, names in lower case. */
export function problemHeaders(
  refusal: Refusal,
  body: Buffer,
  type = PROBLEM_TYPE,
): Record<string, string | number> {
  const headers: Record<string, string | number> = {
    'content-type': type,
    'content-length': body.length,
    'cache-control': 'no-store',
  }
  if (refusal.status === 503) headers['retry-after'] = 5
  if (refusal.status === 429) headers['retry-after'] = 60
  if (refusal.status === 405) headers.allow = 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS'
  return headers
}

/** A whole HTTP/1.1 answer, for sockets that no parser serves (any more). */
export function rawProblem(refusal: Refusal, context: ProblemContext): Buffer {
  const body = problemBody(refusal, context)
  const lines = Object.entries(problemHeaders(refusal, body)).map(([name, value]) => `${name}: ${value}\r\n`)
  const head = `HTTP/1.1 ${refusal.status} ${titleOf(refusal)}\r\n${lines.join('')}connection: close\r\n\r\n`
  return Buffer.concat([Buffer.from(head, 'latin1'), body])
}
