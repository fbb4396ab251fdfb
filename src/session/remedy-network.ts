/** What would allow a refused name, connection or request: a rule for exactly it, or one more entry in a rule. */
import type { Fact } from '../audit/fact.ts'
import { isAddress, matchesHost, parseHost } from '../lib/host.ts'
import { isPlainPath, matchesPath } from '../lib/url-path.ts'
import { LABELS, type Label, type NetworkRule, type Plan } from '../profile/plan.ts'
import { type Advice, type Attempt, type Change, none } from './advice.ts'
import { doubled } from './remedy-sizes.ts'
import { type Wanted, wantedBy } from './remedy-tools.ts'
import { flow, quoted } from './remedy-yaml.ts'

type Denied = Extract<Fact, { k: 'http.denied' | 'net.denied' | 'dns.query' }>

/** @param label the highest that the session read */
export function adviseNetwork(fact: Denied, attempt: Attempt, plan: Plan, label: Label): Advice {
  const reason = fact.reason ?? ''
  const rule = plan.network.find(({ id }) => id === fact.rule)
  switch (reason) {
    case 'network.no-matching-rule':
      return adviseRule(fact, attempt)
    case 'upload.per-request':
    case 'upload.per-minute':
    case 'upload.per-session':
      return adviseUpload(reason, plan)
    default:
      return (rule && adviseChange(reason, attempt, plan, rule, label)) ?? none(WHY_NOT[reason] ?? UNKNOWN)
  }
}

/** What is no question of the profile, and what helps instead. */
const WHY_NOT: Readonly<Record<string, string>> = {
  'network.path-spelling': 'Servers read this spelling of a path differently: use the plain one.',
  'network.plain-not-allowed': 'Use https; a rule opens plain HTTP by a port such as 8080/http.',
  'network.raw-only':
    'The rule is for bare TCP (PORT/tcp); no proxy is asked for that: connect to the host itself.',
  'credential.plain': 'The rule injects a credential, which never travels over plain HTTP: use https.',
  'credential.foreign': 'The key is not of this session: remove it and use the one from the environment.',
  'credential.misplaced': 'A placeholder went to a host that its credential is not for: send it to its own.',
  'dns.wildcard-limit': 'Too many or too strange names under a wildcard: name the hosts instead of *.',
  'dns.too-many-names': 'The session asked for more names than any session may: something enumerates hosts.',
  'http.method-unknown': 'TRACE and CONNECT are never allowed; others only where a rule names them.',
  'http.expectation-unknown': 'The request has an `Expect` that no server here knows: leave it out.',
  'http.misdirected': 'The request names another host than its connection: a client bug, or an evasion.',
  'http.dns-over-https': 'Names resolve through the system resolver only; switch DNS over HTTPS off.',
  'http.bodyless-method-body': 'A body on a method that has none is a way to smuggle: use POST.',
  'session.stopped': 'The session was stopped, so nothing went out; ambit thaw resumes a frozen one.',
  'tls.client-distrusts-ca':
    "The program does not trust the session's CA: see docs/agents.md for its setting.",
  'tls.unreadable-hello': 'What began like TLS was none that can be read without doubt: use another client.',
  'tls.name-missing':
    'The TLS client sends no server name, so nobody can say where it goes: use another client.',
  'tls.name-mismatch': 'The TLS server name is another host than the one connected to: an evasion, or a bug.',
  'net.unknown-protocol':
    'Neither HTTP nor TLS was spoken: only those pass. What speaks TLS from its first byte passes to a host whose rule says `inspect: false`; anything passes to the address that a rule with `ports: ["PORT/tcp"]` and `connect: "ADDRESS:PORT"` pins.',
  'net.silent':
    'The client waited for the server to speak first. Only HTTP and TLS pass, where the client does.',
  'net.protocol-ssh':
    'SSH does not pass: nobody could check what goes through it. For git, use the https:// address.',
  'net.protocol-postgres':
    'PostgreSQL passes to a host that a rule pins: `ports: ["5432/tcp"]` with `connect: "ADDRESS:5432"`. Or inside TLS from its first byte (sslnegotiation=direct, PostgreSQL 17): a rule for the host with its port and `inspect: false`.',
  'net.protocol-redis':
    'Redis passes to a host that a rule pins: `ports: ["6379/tcp"]` with `connect: "ADDRESS:6379"`. Or inside TLS (rediss://, redis-cli --tls --sni HOST): a rule for the host with its port and `inspect: false`.',
  'net.protocol-mysql':
    'MySQL servers speak first, before TLS, so it passes only to a host that a rule pins: `ports: ["3306/tcp"]` with `connect: "ADDRESS:3306"`.',
  'net.protocol-mail': 'Mail does not pass.',
  'net.protocol-ftp': 'FTP does not pass: use https.',
  'upstream.unresolvable': 'The profile allows it; the name does not resolve.',
  'upstream.unreachable': 'The profile allows it; the server could not be reached.',
  'upstream.proxy-unreachable':
    "The profile allows it; the organisation's proxy could not be reached: see AMBIT_UPSTREAM_PROXY, as it was when ambit run started.",
  'upstream.proxy-certificate':
    "The profile allows it; the certificate of the organisation's proxy is not vouched for, or is of another name: set AMBIT_UPSTREAM_ROOTS=FILE, the PEM file of the organisation's roots.",
  'upstream.proxy-credentials':
    "The profile allows it; the organisation's proxy wants other credentials: set AMBIT_UPSTREAM_PROXY=http://USER:PASSWORD@HOST:PORT.",
  'upstream.proxy-refused': "The profile allows it; the organisation's proxy refuses this host.",
  'upstream.timeout': 'The profile allows it; the server did not answer in time.',
  'upstream.failed': 'The profile allows it; the server broke off or answered with invalid HTTP.',
  'upstream.swollen':
    'The profile allows it; the server sent a body that opens to hundreds of times its size, and it was cut off.',
  'upstream.address-forbidden':
    'The name leads to a private or metadata address: only a rule with `connect: "ADDRESS:PORT"` reaches one; check what is there before you write it.',
  'upstream.certificate':
    "The server's certificate is not valid for its name; a private CA goes into the rule's `ca`.",
}
const UNKNOWN = 'No change to the profile would allow it.'

const NEVER = new Set(['TRACE', 'TRACK', 'CONNECT'])
const SENDS = /^(?:GET|HEAD|OPTIONS)$/
/** 22 and the like: what a rule could not let through even so. */
const NO_HTTP = new Map([
  [22, 'SSH does not pass: for git, use its https:// address.'],
  [25, 'Mail does not pass.'],
])

/** A rule of its own for a host that none names. */
function adviseRule(fact: Denied, attempt: Attempt): Advice {
  const { methods, paths, cut } = attempt
  const { host, port } = fact.k === 'dns.query' ? { host: fact.name, port: 443 } : fact
  if (host === '' || isAddress(host))
    return none(
      'An address says nothing about who answers: use a host name. A private one needs `connect` in a rule.',
    )
  const name = parseHost(host) === host ? quoted(host) : null
  if (name === null) return none('This is no plain host name, so no rule can name it.')
  const foreign = NO_HTTP.get(port)
  if (foreign) return none(foreign)
  const first = fact.k === 'http.denied' ? fact.path : null
  const wanted = port === 443 ? wantedBy(host, methods, paths, first) : null
  const whole = wanted && adviseWanted(wanted)
  if (whole) return whole
  const verbs = nameable(methods)
  const places = writable(paths)
  if (methods.size > 0 && (verbs.length === 0 || places.length === 0))
    return none('Its method or path cannot be named in a rule without admitting more.')
  const parts = [`host: ${name}`]
  if (port !== 443) parts.push(`ports: ${flow([port === 80 ? '"80/http"' : port])}`)
  parts.push(`methods: ${flow((verbs.length > 0 ? verbs : ['GET', 'HEAD']).map((verb) => `"${verb}"`))}`)
  if (places.length > 0) parts.push(`paths: ${flow(places)}`)
  const safe = places.length > 0 && port !== 80 && verbs.every((verb) => SENDS.test(verb))
  return {
    changes: [{ place: 'network', yaml: `- { ${parts.join(', ')} }` }],
    risk: safe ? 'medium' : 'high',
    advice:
      places.length > 0
        ? `Lets the session send to ${host}${partly(cut || places.length < paths.size)}.`
        : `Lets the session send to ${host}; no request was seen, so name the paths that it needs.`,
  }
}

/** Rules for all that a known tool asks for; null when they cannot be written to the letter. */
function adviseWanted({ methods, paths, hosts, why }: Wanted): Advice | null {
  const places = paths === null ? [] : writable(new Set(paths))
  if (paths !== null && places.length < paths.length) return null
  const verbs = flow(methods.map((verb) => `"${verb}"`))
  const rest = `methods: ${verbs}${paths === null ? '' : `, paths: ${flow(places)}`}`
  return {
    changes: hosts.map((name) => ({ place: 'network', yaml: `- { host: ${quoted(name)}, ${rest} }` })),
    risk: 'high',
    advice: `Lets the session send to ${hosts.join(' and ')}: ${why}.`,
  }
}

const partly = (some: boolean): string => (some ? '; not all paths that were tried are listed' : '')

/** Methods that a rule may name. */
const nameable = (methods: ReadonlySet<string>): string[] =>
  [...methods].filter((method) => /^[A-Z]{1,20}$/.test(method) && !NEVER.has(method))

/** Paths that a rule can mean to the letter: a `*` would be a wildcard there, and there is no escape for it. */
const writable = (paths: ReadonlySet<string>): string[] =>
  [...paths].flatMap((path) => (isPlainPath(path) && !path.includes('*') ? (quoted(path) ?? []) : []))

function adviseChange(
  reason: string,
  attempt: Attempt,
  plan: Plan,
  rule: NetworkRule,
  label: Label,
): Advice | null {
  switch (reason) {
    case 'network.method-not-allowed':
    case 'network.path-not-allowed':
      return adviseRequest(attempt, rule)
    case 'network.port-not-allowed':
      return advisePorts([...attempt.ports], plan, rule)
    case 'network.clearance-exceeded':
      if (LABELS.indexOf(label) <= LABELS.indexOf(rule.clearance)) return null
      return {
        changes: [{ place: rule.id, yaml: `clearance: ${label}` }],
        risk: 'high',
        advice: `Lets ${label} data leave for ${rule.host}.`,
      }
    case 'credential.unavailable':
      return adviseSource(plan, rule)
    default:
      return null
  }
}

function adviseRequest({ methods, paths, cut }: Attempt, rule: NetworkRule): Advice {
  const more = {
    methods:
      rule.methods === null ? [] : nameable(methods).filter((method) => !rule.methods?.includes(method)),
    paths: [...paths].filter((path) => !(rule.paths?.some((glob) => matchesPath(glob, path)) ?? true)),
  }
  const places = writable(new Set(more.paths))
  if (more.methods.length + places.length === 0 || (places.length === 0 && more.paths.length > 0))
    return none('Its method or path cannot be named in a rule without admitting more.')
  const changes: Change[] = [
    ...more.methods.map((method) => ({ place: `${rule.id}.methods`, yaml: `- "${method}"` })),
    ...places.map((path) => ({ place: `${rule.id}.paths`, yaml: `- ${path}` })),
  ]
  const sends = more.methods.some((method) => !SENDS.test(method))
  return {
    changes,
    risk: sends ? 'high' : 'medium',
    advice:
      (more.methods.length > 0 ? 'A method holds for all paths of its rule' : `Opens more of ${rule.host}`) +
      `${partly(cut || places.length < more.paths.length)}.`,
  }
}

/** The whole list: where a profile leaves `ports` out, an addition alone would drop 443. */
function advisePorts(tried: readonly number[], plan: Plan, rule: NetworkRule): Advice {
  const foreign = tried.map((port) => NO_HTTP.get(port)).find((why) => why !== undefined)
  if (foreign) return none(foreign)
  const plain = tried.includes(80)
  if (plain && (rule.credential !== null || !rule.inspect))
    return none('Plain HTTP is not for a rule with a credential or without inspection: use https.')
  const others = plan.network.filter(
    ({ id, ports }) => id !== rule.id && tried.some((port) => ports.includes(port)),
  )
  if (others.some((other) => matchesHost(rule.host, other.host) || matchesHost(other.host, rule.host)))
    return none(`Another rule has this port under ${rule.host}: name the hosts one by one.`)
  const known = plan.network
    .filter(({ id }) => id === rule.id)
    .flatMap((half) => half.ports.map((number) => spelled(half, number)))
  const ports = flow([...known, ...tried.map((port) => (port === 80 ? '"80/http"' : port))])
  return {
    changes: [{ place: rule.id, yaml: `ports: ${ports}` }],
    risk: plain ? 'high' : 'medium',
    advice: plain
      ? 'Plain HTTP can be read and changed on its way.'
      : `Opens another service of ${rule.host}.`,
  }
}

const spelled = ({ plain, raw }: NetworkRule, port: number): string | number =>
  plain ? `"${port}/http"` : raw ? `"${port}/tcp"` : port

/** The plan's own text, a person's; quoted all the same. */
function adviseSource(plan: Plan, rule: NetworkRule): Advice | null {
  const index = plan.credentials.findIndex(({ name }) => name === rule.credential)
  const source = plan.credentials[index]?.source
  const text = source === undefined ? null : quoted(source)
  if (source === undefined || text === null) return null
  return {
    changes: [{ place: `credentials[${index}]`, yaml: `source: ${text}` }],
    risk: 'low',
    advice: `Give the source a value before \`ambit run\`${source.startsWith('env:') ? ` (export ${source.slice(4)}=…)` : ''}, or name another one.`,
  }
}

const UPLOADS = {
  'upload.per-request': 'perRequest',
  'upload.per-minute': 'perMinute',
  'upload.per-session': 'perSession',
} as const

/** A larger request must also fit into the minute and the session. */
function adviseUpload(reason: keyof typeof UPLOADS, plan: Plan): Advice {
  const key = UPLOADS[reason]
  const keys = Object.values(UPLOADS).slice(Object.values(UPLOADS).indexOf(key))
  const wanted = plan.upload[key] * 2
  const lines = keys
    .filter((other) => other === key || plan.upload[other] < wanted)
    .map((other) => doubled(other, plan.upload[key]))
  if (lines.some((line) => line === null)) return none('The allowance is as large as it can be.')
  return {
    changes: lines.map((yaml) => ({ place: 'upload', yaml: String(yaml) })),
    risk: 'medium',
    advice:
      'Doubles what may leave: how much it would have been is not known. A budget is what bounds a leak.',
  }
}
